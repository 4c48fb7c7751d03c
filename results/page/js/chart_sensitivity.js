// What each group loses where one layer alone is quantized.
const drawSensitivity = (view, { colors, width }) => {
  const { detail, db } = view;
  const rows = detail
    ? view.meansOf("sensitivity", view.trialsOf(detail), { grouping: view.grouping }, ["layer", "group"], "drop_pp")
    : [];
  if (!rows.length) return { empty: 'no sensitivity of layers is known; analysis = ["sensitivity"] measures it' };
  const layers = [...new Set(rows.map(({ layer }) => layer))];
  const groups = view.groups.filter(({ name }) => rows.some(({ group }) => group === name));
  const at = new Map(rows.map((row) => [`${row.layer}\u0001${row.group}`, row.drop_pp]));
  const z = layers.map((layer) => groups.map(({ name }) => at.get(`${layer}\u0001${name}`) ?? null));
  const largest = [...rows].sort((a, b) => b.drop_pp - a.drop_pp)[0];
  return {
    ...drawHeat(
      {
        rows: layers,
        columns: groups.map(({ name }) => name),
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
    summary: `${detail.name}: ${largest.layer} alone costs ${view.byClass ? "class " : ""}${largest.group} most: ${sayDrop(largest.drop_pp)}.`,
    note: `Drop on validation images with this layer alone quantized, in pp; ${view.saySeeds("sensitivity")}.`,
    table: {
      head: ["Layer", ...groups.map(({ name }) => name)],
      rows: layers.map((layer, i) => [
        cell(layer),
        ...groups.map(({ name }, j) => cell(formatPp(z[i][j]), z[i][j], name)),
      ]),
    },
  };
};
