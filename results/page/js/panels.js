// Lines of groups over bits, in small multiples by method that share one range: what two charts are made of.
const PANEL = 290; // px of a panel at least

const LINE_HEIGHT = 330;

const LABEL_STEP = 14;

// Where panels stand: as many beside each other as fit, the others below. Returns axes and places for subplots.
const placePanels = (n, width, height, { gap, titleHeight = 46, head = 0.09 }) => {
  const columns = Math.max(1, Math.min(n, Math.floor(width / PANEL)));
  const rows = Math.ceil(n / columns);
  const total = rows * height;
  const gapX = gap / width; // px between panels: names at the ends of lines, and the next axis
  const share = (1 - gapX * (columns - 1)) / columns;
  const places = Array.from({ length: n }, (_, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    const left = column * (share + gapX);
    const top = 1 - row / rows;
    return {
      x: [left, left + share],
      y: [top - 1 / rows + titleHeight / height / rows, top - head / rows],
      suffix: i === 0 ? "" : String(i + 1),
      titleAt: [left, top - 0.02 / rows],
      pixels: (1 / rows - head / rows - titleHeight / height / rows) * total,
    };
  });
  return { places, total, columns };
};

// Rising places, `LABEL_STEP` apart at least and as near to `pixels` as that allows: blocks that touch are merged.
const pushApart = (pixels, low, high) => {
  const blocks = [];
  for (let [start, size] of pixels.map((pixel) => [pixel, 1])) {
    while (blocks.length && blocks.at(-1)[0] + blocks.at(-1)[1] * LABEL_STEP > start) {
      const [before, n] = blocks.pop();
      [start, size] = [(before * n + (start - n * LABEL_STEP) * size) / (n + size), n + size];
    }
    blocks.push([Math.max(low, Math.min(start, high - (size - 1) * LABEL_STEP)), size]);
  }
  return blocks.flatMap(([start, size]) => Array.from({ length: size }, (_, i) => start + i * LABEL_STEP));
};

const sayDotted = (view) =>
  view.groups.every(({ ranked }) => ranked) ? "" : `Dotted: fewer than ${view.db.minRanked} images.`;

// Lines have one configuration for each number of bits: which of several is told.
const sayPicks = (view) =>
  view.picks.length < view.configs.length
    ? "Of several settings of one method and bits, the line has the one that validation images chose; the map has all."
    : "";

// Lines of groups over the configurations of each panel. `read` gives {mean, low, high} or null for one of them.
const drawPanels = (view, panels, read, { colors, width, format, bands, reversed, yTitle }) => {
  const known = panels
    .flatMap(({ configs, base }) =>
      configs.flatMap((config) => view.groups.map((group) => ({ group, found: read(config, group, base) }))),
    )
    .filter(({ found }) => found);
  if (!known.length) return { empty: "no finished trial has these numbers" };
  const isBanded = (group) => bands && group.name === view.highlighted;
  const ends = known.flatMap(({ group, found: { mean, low, high } }) =>
    isBanded(group) ? [mean, low, high].filter(isNumber) : [mean],
  );
  const pad = Math.max(0.06 * (Math.max(...ends) - Math.min(...ends)), 1e-6);
  const range = [Math.min(...ends) - pad, Math.max(...ends) + pad];
  const { places, total, columns } = placePanels(panels.length, width, LINE_HEIGHT, { gap: 150 });
  const layout = layoutOf(colors, total, { margin: { l: 66, r: 96, t: 8, b: 8, pad: 4 }, annotations: [], shapes: [] });
  const data = [];
  panels.forEach(({ variant, configs, base }, number) => {
    const place = places[number];
    const [x, y] = [`x${place.suffix}`, `y${place.suffix}`];
    const share = (width / columns - 150) / configs.length; // px of a tick
    layout[`xaxis${place.suffix}`] = axis(colors, {
      domain: place.x,
      anchor: y,
      tickvals: configs.map((_, i) => i),
      ticktext: configs.map((config) =>
        share < 70 ? bitsName(config).replace(/ bits$|^FP32-/, "") : bitsName(config),
      ),
      range: [-0.25, configs.length - 0.75],
      showgrid: false,
      tickangle: 0,
      automargin: false,
    });
    layout[`yaxis${place.suffix}`] = axis(colors, {
      domain: place.y,
      anchor: x,
      range: reversed ? [...range].reverse() : range,
      tickformat: format.tick,
      automargin: false,
    });
    layout.annotations.push(
      note(`<b>${label(variant, 30)}</b>`, colors, {
        x: place.titleAt[0],
        y: place.titleAt[1],
        yanchor: "top",
        font: { color: colors.ink, size: 13 },
      }),
    );
    if (range[0] < 0 && range[1] > 0) layout.shapes.push({ ...zeroLine(colors, "x"), xref: `${x} domain`, yref: y });
    const order = [...view.groups].sort((a, b) => isBright(view, a) - isBright(view, b));
    for (const group of order) {
      const points = configs
        .map((config, i) => ({ i, config, found: read(config, group, base) }))
        .filter(({ found }) => found);
      if (!points.length) continue;
      const color = colorOf(view, group, colors);
      const hasBand = isBanded(group) && points.length > 1 && points.some(({ found }) => isNumber(found.low));
      if (hasBand) data.push(bandOf(points, color, x, y));
      data.push({
        type: "scatter",
        mode: "lines+markers",
        xaxis: x,
        yaxis: y,
        x: points.map(({ i }) => i),
        y: points.map(({ found }) => found.mean),
        line: { color, width: group.name === view.highlighted ? 3 : 1.6, dash: group.ranked ? "solid" : "dot" },
        marker: { color, size: 6 },
        opacity: isBright(view, group) ? 1 : 0.45,
        meta: { groups: group.name },
        hovertemplate: "%{text}<extra></extra>",
        text: points.map(
          ({ config, found }) =>
            `<b>${label(group.name, 40)}</b> (n=${group.n})<br>${escapeText(config.name)}: ${format.say(found)}`,
        ),
      });
    }
    labelEnds(view, layout, configs, (config, group) => read(config, group, base), {
      colors,
      range,
      place,
      x,
      y,
      reversed,
    });
  });
  if (yTitle)
    layout.annotations.push(
      note(yTitle, colors, { x: 0, xshift: -56, y: 1, yanchor: "top", textangle: -90, xanchor: "center" }),
    );
  return { data, layout };
};

const bandOf = (points, color, x, y) => ({
  type: "scatter",
  mode: "none",
  xaxis: x,
  yaxis: y,
  fill: "toself",
  fillcolor: `${color}2e`,
  hoverinfo: "skip",
  x: [...points.map(({ i }) => i), ...points.map(({ i }) => i).reverse()],
  y: [
    ...points.map(({ found }) => found.high ?? found.mean),
    ...points.map(({ found }) => found.low ?? found.mean).reverse(),
  ],
});

// Names at the ends of lines; with many groups only of the highlighted one.
const labelEnds = (view, layout, configs, read, { colors, range, place, x, y, reversed }) => {
  const names = tellApart(view.groups.map(({ name }) => name));
  const named = view.groups.length <= 12 ? view.groups : view.groups.filter((group) => group.name === view.highlighted);
  const ends = named
    .map((group) => {
      const last = configs
        .map((config, i) => ({ i, found: read(config, group) }))
        .filter(({ found }) => found)
        .at(-1);
      return last && { group, i: last.i, mean: last.found.mean };
    })
    .filter(Boolean)
    .map((end) => {
      const share = (end.mean - range[0]) / (range[1] - range[0]);
      return { ...end, pixel: (reversed ? share : 1 - share) * place.pixels };
    })
    .sort((a, b) => a.pixel - b.pixel);
  const pixels = pushApart(
    ends.map(({ pixel }) => pixel),
    0,
    place.pixels,
  );
  ends.forEach(({ group, i, mean, pixel }, number) => {
    const color = colorOf(view, group, colors);
    layout.annotations.push({
      x: i,
      y: mean,
      xref: x,
      yref: y,
      ax: 20,
      ay: pixels[number] - pixel,
      xanchor: "left",
      showarrow: true,
      arrowhead: 0,
      arrowwidth: 0.8,
      arrowcolor: color,
      standoff: 6,
      text: label(names[view.groups.indexOf(group)], 11),
      font: { color, size: 12 },
      borderpad: 1,
    });
  });
};

const tableOfPanels = (view, panels, read, say) => {
  const configs = [...new Set(panels.flatMap((panel) => panel.configs))]; // float models stand in several panels
  return {
    head: [view.byClass ? "Class" : "Group", "n", ...configs.map((config) => config.name)],
    rows: view.groups.map((group) => [
      cell(group.name, null, group.name),
      cell(group.n, group.n),
      ...configs.map((config) => {
        const found = read(config, group);
        return found ? cell(say(found), found.mean, group.name, found) : cell(MISSING);
      }),
    ]),
  };
};
