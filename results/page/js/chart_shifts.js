// How much more or less often groups are predicted as each class.
const drawShifts = (view, { colors, width }) => {
  const { detail } = view;
  if (!detail) return { empty: view.lacksDetail };
  const place = { runtime: view.runtime, comparison: view.sideOf(detail), grouping: view.grouping };
  const rows = view.meansOf("shifts", view.trialsOf(detail), place, ["group", "class"], "shift_pp");
  if (!rows.length) return { empty: view.missing("shifts", view.lacksSide) };
  const classes = [...new Set(rows.map((row) => row.class))];
  const groups = view.groups.filter(({ ranked, name }) => ranked && rows.some((row) => row.group === name));
  const at = new Map(rows.map((row) => [`${row.group}\u0001${row.class}`, row.shift_pp]));
  const z = groups.map(({ name }) => classes.map((one) => at.get(`${name}\u0001${one}`) ?? null));
  const largest = rows
    .filter((row) => groups.some(({ name }) => name === row.group) && !(view.byClass && row.group === row.class))
    .sort((a, b) => b.shift_pp - a.shift_pp)[0];
  return {
    ...drawHeat(
      {
        rows: groups.map(({ name }) => name),
        columns: classes,
        z,
        text: z.map((line) => line.map(formatPp)),
        hover: groups.map(({ name }, i) =>
          classes.map(
            (one, j) => `${label(name, 40)} predicted as <b>${label(one, 40)}</b><br>${formatPp(z[i][j])} pp`,
          ),
        ),
        ticks: { y: groups.map(({ name }) => name) },
        limit: limitOf(z.flat(), 1),
      },
      { colors, width },
    ),
    summary: largest
      ? `${detail.name}: most drawn to ${shorten(largest.class, 40)} are images of ${nameOf(view, { name: largest.group })}, ${formatPp(largest.shift_pp)} pp more often.`
      : "",
    note: `Columns: the class that is predicted. How much more often (orange) or less often (purple) images of a ${view.noun} are predicted as a class than by ${COMPARISONS[view.sideOf(detail)]}, in pp of the ${view.noun}; ${view.saySeeds("shifts")}.${view.byClass ? " Rows are true classes: this is the change of the confusion matrix." : ""}`,
    table: {
      head: [view.byClass ? "Class" : "Group", ...classes.map((one) => `as ${one}, pp`)],
      rows: groups.map(({ name }, i) => [
        cell(name, null, name),
        ...classes.map((_, j) => cell(formatPp(z[i][j]), z[i][j], name)),
      ]),
    },
  };
};
