"""Which group drops when one layer alone is quantized: predictions of the val images -> paired counts per group.

The other side is the same network without quantizers. It is the val split, since layers may be chosen by this table.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from quantfair.results.store.files import StoreError
from quantfair.results.store.rows import TableBuilder
from quantfair.results.store.store import Store
from quantfair.results.tables.groupings import Grouping, TestSet
from quantfair.results.tables.groups import divide

NOT_MEASURED = "not measured: `analysis` did not name sensitivity when the trial ran"
NO_VAL_IMAGES = "no val images in this group"


def add_sensitivity(store: Store, trial_id: str, test_set: TestSet, rows: TableBuilder) -> None:
    """Add the rows of one quantized trial: one for each layer and group, or one that says why there are none.

    Raises:
        StoreError: the file is damaged, or not of exactly the data set's val images.
    """
    table = store.read_layer_predictions(trial_id)
    if table is None or not len(table):
        rows.add(1, trial_id=trial_id, reason=NOT_MEASURED if table is None else "no layer is quantized")
        return
    for layer in table["layer"].unique().to_pylist():
        of_layer = table.filter(pc.field("layer") == layer).sort_by("sample_id")
        if not np.array_equal(of_layer["sample_id"].to_numpy(), test_set.val_ids_V):
            raise StoreError(
                f"Trial {trial_id} predicted other images than the val images of data set {test_set.dataset_id} for "
                f"layer {layer}. Delete trials/{trial_id}.parquet and run the sweep again: only that trial runs."
            )
        for grouping in test_set.groupings:
            shared = {"trial_id": trial_id, "layer": layer, "split": "val", "grouping": grouping.name}
            counts = _count(of_layer, test_set.grouping("label").val_V, grouping)
            rows.add(len(grouping.names), **shared, group=list(grouping.names), **counts)


def _count(of_layer: pa.Table, labels_N: np.ndarray, grouping: Grouping) -> dict[str, object]:
    predicted_N, floats_N = (of_layer[name].to_numpy() for name in ("predicted", "float_predicted"))
    cell_N = 2 * (floats_N != labels_N) + (predicted_N != labels_N)  # 0 rr, 1 rw, 2 wr, 3 ww
    n_groups = len(grouping.names)
    cells_G4 = np.bincount(grouping.val_V * 4 + cell_N, minlength=4 * n_groups).reshape(-1, 4)
    n_G, (_, rw_G, wr_G, _) = cells_G4.sum(axis=1), cells_G4.T
    return {
        "n": n_G,
        **dict(zip(("n_rr", "n_rw", "n_wr", "n_ww"), cells_G4.T, strict=True)),
        "n_flip": np.bincount(grouping.val_V, weights=predicted_N != floats_N, minlength=n_groups).astype(np.int64),
        "drop_pp": 100 * divide(rw_G - wr_G, n_G),
        "reason": [None if n else NO_VAL_IMAGES for n in n_G],
    }
