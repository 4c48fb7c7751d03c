// A map of rows and columns: what three charts are made of.
const LEAST_CELL = 46; // px of a column

// The largest size of 95 % of the values, and `least` at least: where colours are full.
const limitOf = (values, least) => {
  const sizes = values
    .filter(isNumber)
    .map(Math.abs)
    .sort((a, b) => a - b);
  return Math.max(least, sizes[Math.floor(0.95 * (sizes.length - 1))] ?? 0) || 1;
};

// `z` decides the colours and leaves null blank; `ticks` says which axis names groups. `below` stands under a column's name.
const drawHeat = ({ rows, columns, below, z, text, hover, ticks, limit, shapes = [] }, { colors, width }) => {
  const { left, axis: rowNames } = nameRows(rows, width, colors);
  const minWidth = left + LEAST_CELL * columns.length;
  const letters = Math.max(6, Math.floor((Math.max(width, minWidth) - left) / columns.length / 7));
  const trace = {
    type: "heatmap",
    z,
    text,
    customdata: hover,
    x: columns.map((_, i) => i),
    y: rows.map((_, i) => i),
    zmid: 0,
    zmin: -limit,
    zmax: limit,
    xgap: 2,
    ygap: 2,
    colorscale: colors.diverging.map((color, i, all) => [i / (all.length - 1), color]),
    showscale: false,
    texttemplate: "%{text}",
    textfont: { size: 11, color: colors.ink },
    hoverongaps: false,
    hovertemplate: "%{customdata}<extra></extra>",
    meta: { ticks },
  };
  const layout = layoutOf(colors, 64 + ROW * rows.length, {
    margin: { l: left, r: 8, t: 56, b: 8, pad: 4 },
    xaxis: axis(colors, {
      tickvals: columns.map((_, i) => i),
      ticktext: columns.map((name, i) => label(name, letters) + (below ? `<br>${below[i]}` : "")),
      side: "top",
      tickangle: 0,
      showgrid: false,
      range: [-0.5, columns.length - 0.5],
      automargin: false,
    }),
    yaxis: rowNames,
    shapes,
  });
  return { data: [trace], layout, minWidth };
};
