// Answers that changed: bad flips to the right, good ones to the left, beside what another seed changes.
const drawFlips = (view, { colors, width }) => {
  const { detail } = view;
  if (!detail) return { empty: view.lacksDetail };
  const found = view.groups
    .map((group) => ({ group, drop: view.drop(detail, group.name), churn: view.churn(detail, group.name) }))
    .filter(({ drop }) => drop && isNumber(drop.bad_flip_rate));
  if (!found.length) return { empty: view.lacksSide };
  const { left, axis: rows } = nameRows(
    found.map(({ group }) => `${group.name} (${group.n})`),
    width,
    colors,
  );
  const bar = (name, sign, color) => ({
    type: "bar",
    orientation: "h",
    x: found.map(({ drop }) => sign * 100 * drop[name]),
    y: found.map((_, i) => i),
    marker: { color },
    width: 0.7,
    meta: { groups: found.map(({ group }) => group.name) },
    hovertemplate: "%{text}<extra></extra>",
    textposition: "none",
    text: found.map(
      ({ group, drop }) =>
        `<b>${label(group.name, 40)}</b><br>${formatPercent(drop[name], 2)} ${sign > 0 ? "were right before" : "are right now"}`,
    ),
  });
  const side = COMPARISONS[view.sideOf(detail)];
  const dots = (read, marker, says) => {
    const some = found.filter((one) => isNumber(read(one)));
    return {
      type: "scatter",
      mode: "markers",
      x: some.map((one) => 100 * read(one)),
      y: some.map((one) => found.indexOf(one)),
      marker: { color: colors.ink, ...marker },
      meta: { groups: some.map(({ group }) => group.name) },
      hovertemplate: "%{text}<extra></extra>",
      text: some.map((one) => `<b>${label(one.group.name, 40)}</b><br>${formatPercent(read(one), 2)} ${says}`),
    };
  };
  const most = found
    .filter(({ group }) => view.isInPlay(detail, group))
    .sort((a, b) => b.drop.flip_rate - a.drop.flip_rate)[0];
  const yardstick = isNumber(most?.churn)
    ? `; from one seed of the ${side} to another ${formatPercent(most.churn)} do`
    : "";
  return {
    data: [
      bar("bad_flip_rate", 1, colors.focus),
      bar("good_flip_rate", -1, colors.muted),
      dots(({ drop }) => drop.flip_rate, { size: 7 }, "answers changed"),
      dots(
        ({ churn }) => churn,
        { size: 10, symbol: "diamond-open" },
        `changed from one seed of the ${side} to another`,
      ),
    ],
    layout: layoutOf(colors, 60 + ROW * found.length, {
      barmode: "relative",
      margin: { l: left, r: 16, t: 8, b: 42, pad: 4 },
      shapes: [zeroLine(colors, "y")],
      xaxis: axis(colors, { title: axisTitle("good flips ← % of images → bad flips", colors), automargin: false }),
      yaxis: rows,
    }),
    summary: !most
      ? `${detail.name}: ${view.noneInPlay}`
      : !most.drop.flip_rate
        ? `${detail.name}: no answer changes.`
        : `${detail.name}: most answers change for ${nameOf(view, most.group)}, ${formatPercent(most.drop.flip_rate)}${yardstick}.`,
    note: `Against ${side}. What both bars of a ${view.noun} differ by is its drop. Dots: all answers that changed, also from one wrong answer to another. ${found.some(({ churn }) => isNumber(churn)) ? `Open diamonds, the yardstick: what changes from one training seed of the ${side} to another (churn; over all seeds).` : "No churn is drawn: it takes two training seeds of a float model on the other side."}`,
    table: {
      head: [view.byClass ? "Class" : "Group", "n", "Changed", "Bad", "Good", "Churn of seeds"],
      rows: found.map(({ group, drop, churn }) => [
        cell(group.name, null, group.name),
        cell(group.n, group.n),
        ...["flip_rate", "bad_flip_rate", "good_flip_rate"].map((name) =>
          cell(formatPercent(drop[name], 2), drop[name]),
        ),
        cell(formatPercent(churn, 2), churn),
      ]),
    },
  };
};
