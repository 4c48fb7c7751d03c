// What each group loses where one layer alone is quantized.
const drawSensitivity = (view, { colors, width }) => {
  const { detail, db } = view;
  if (!detail) return { empty: view.lacksDetail };
  const trials = view.trialsOf(detail);
  const rows = view.meansOf("sensitivity", trials, { grouping: view.grouping }, ["layer", "group"], "drop_pp");
  const unknown = 'no sensitivity of layers is known; analysis = ["sensitivity"] measures it';
  if (!rows.length) return { empty: view.missing("sensitivity", unknown) };
  const layers = [...new Set(rows.map(({ layer }) => layer))];
  const sizes = new Map(rows.map((row) => [row.group, row.n]));
  const groups = view.groups.filter(({ name }) => sizes.has(name));
  const at = new Map(rows.map((row) => [`${row.layer}\u0001${row.group}`, row.drop_pp]));
  const z = layers.map((layer) => groups.map(({ name }) => at.get(`${layer}\u0001${name}`) ?? null));
  const largest = rows.filter(({ n }) => n >= db.minRanked).sort((a, b) => b.drop_pp - a.drop_pp)[0];
  return {
    ...drawHeat(
      {
        rows: layers,
        columns: tellApart(groups.map(({ name }) => name)),
        below: groups.map(({ name }) => sizes.get(name)),
        z,
        text: z.map((line) => line.map(formatPp)),
        hover: layers.map((layer, i) =>
          groups.map(({ name }, j) => `${escapeText(layer)} alone<br><b>${label(name, 40)}</b> ${sayDrop(z[i][j])}`),
        ),
        ticks: { x: groups.map(({ name }) => name) },
        limit: limitOf(z.flat(), 1),
      },
      { colors, width },
    ),
    summary: largest
      ? largest.drop_pp <= 0
        ? `${detail.name}: no layer alone costs a ${view.noun} anything.`
        : `${detail.name}: ${largest.layer} alone costs ${nameOf(view, { name: largest.group })} (n = ${largest.n}) most: ${sayDrop(largest.drop_pp)}.`
      : `${detail.name}: no ${view.noun} has ${db.minRanked} validation images, so none is named.`,
    note: `Drop on validation images with this layer alone quantized, in pp; ${view.saySeeds("sensitivity")}.`,
    table: {
      head: ["Layer", ...groups.map(({ name }) => `${name} (n=${sizes.get(name)})`)],
      rows: layers.map((layer, i) => [
        cell(layer),
        ...groups.map(({ name }, j) => cell(formatPp(z[i][j]), z[i][j], name)),
      ]),
    },
  };
};
