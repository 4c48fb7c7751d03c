"""Compression-identified exemplars: modal answers and taxicab distances, against plain loops."""

from collections import Counter

import numpy as np

from quantfair.results.contrasts.flips import compare_populations


def test_modes_and_distances_are_those_of_plain_loops_and_ties_go_to_the_largest_label() -> None:
    rng = np.random.default_rng(0)
    a_SN, b_SN = rng.integers(0, 4, (6, 300)), rng.integers(0, 4, (5, 300))
    found = compare_populations(a_SN, b_SN, 4)
    for image in range(300):
        counts = [Counter(answers[:, image].tolist()) for answers in (a_SN, b_SN)]
        modes = [max(count, key=lambda label: (count[label], label)) for count in counts]
        assert found.is_exemplar_N[image] == (modes[0] != modes[1])
        distance = sum(abs(counts[0][label] / 6 - counts[1][label] / 5) for label in range(4)) / 2
        assert np.isclose(found.taxicab_N[image], distance, atol=1e-12)


def test_equal_populations_agree_and_disjoint_ones_are_at_distance_1() -> None:
    zeros_SN = np.zeros((5, 3), dtype=np.int64)
    same, apart = compare_populations(zeros_SN, zeros_SN, 2), compare_populations(zeros_SN, zeros_SN + 1, 2)
    assert not same.is_exemplar_N.any()
    assert not same.taxicab_N.any()
    assert apart.is_exemplar_N.all()
    assert (apart.taxicab_N == 1).all()
