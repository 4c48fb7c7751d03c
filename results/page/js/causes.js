// Why, and where it ships: mechanism, shifts of predictions, calibration, runtimes, layers.
const STATISTICS = {
  n_train: "training images", margin: "margin of the reference", accuracy: "accuracy of the reference", grad_norm: "norm of the loss's gradient",
  hessian_trace: "trace of the Hessian", lambda_max: "largest eigenvalue of the Hessian",
};
const nameOfStatistic = (name) => STATISTICS[name] ?? name.replaceAll("_", " ");

const drawMechanism = (view, { colors, width }) => {
  const { detail } = view;
  if (!detail) return { empty: "no quantized configuration is left" };
  const reference = view.db.allTrials[detail.trials[0]?.reference]?.config;
  const drops = new Map(view.groups.filter(({ ranked }) => ranked).map((group) => [group.name, view.drop(detail, group.name)]).filter(([, drop]) => drop));
  const rows = reference === undefined ? [] : view.db.mechanism.find(["config", "grouping"], [reference, view.grouping]).map((row) => view.db.mechanism.row(row));
  const statistics = [...new Set(rows.map(({ statistic }) => statistic))].filter((one) => rows.some(({ statistic, group }) => statistic === one && drops.has(group)));
  if (!drops.size) return { empty: view.lacksSide };
  if (!statistics.length) return { empty: 'the sweep measured nothing of the reference for these groups; analysis = ["curvature"] adds gradients and the Hessian' };
  const { places, total } = placePanels(statistics.length, width, 260, { gapX: width < 2 * PANEL ? 0 : 0.08 });
  const layout = layoutOf(colors, total, { margin: { l: 48, r: 16, t: 8, b: 8, pad: 4 }, annotations: [] });
  const correlation = (statistic) => view.db.correlations.first(["config", "runtime", "comparison", "grouping", "statistic", "outcome"], [detail.index, view.runtime, view.sideOf(detail), view.grouping, statistic, "drop_pp"]);
  const data = statistics.map((statistic, i) => {
    const { x: domain, y: high, suffix, titleAt } = places[i];
    const some = rows.filter((row) => row.statistic === statistic && drops.has(row.group));
    layout[`xaxis${suffix}`] = axis(colors, { domain, anchor: `y${suffix}`, automargin: false, nticks: 4 });
    layout[`yaxis${suffix}`] = axis(colors, { domain: high, anchor: `x${suffix}`, automargin: false });
    const rho = correlation(statistic);
    const told = rho ? `ρ = ${formatNumber(rho.rho)}, ${formatP(rho.p)}` : "no ρ under 5 groups";
    layout.annotations.push(note(`<b>${nameOfStatistic(statistic)}</b>  ${told}`, colors, { x: titleAt[0], y: titleAt[1], yanchor: "top", font: { color: colors.ink, size: 12 } }));
    return {
      type: "scatter", mode: "markers", xaxis: `x${suffix}`, yaxis: `y${suffix}`, x: some.map(({ value }) => value), y: some.map(({ group }) => drops.get(group).drop_pp),
      marker: { size: 9, color: some.map(({ group }) => colorOf(view, view.groups.find(({ name }) => name === group), colors)) }, meta: { groups: some.map(({ group }) => group) },
      text: some.map(({ group, value }) => `<b>${label(group, 40)}</b><br>${nameOfStatistic(statistic)} ${formatNumber(value)}<br>drop ${formatPp(drops.get(group).drop_pp)} pp`), hovertemplate: "%{text}<extra></extra>",
    };
  });
  const strongest = statistics.map((statistic) => ({ statistic, rho: correlation(statistic) })).filter(({ rho }) => rho).sort((a, b) => a.rho.p - b.rho.p)[0];
  return {
    data, layout,
    summary: strongest ? `${detail.name}: the drop goes most with ${nameOfStatistic(strongest.statistic)} (Spearman's ρ = ${formatNumber(strongest.rho.rho)}, ${formatP(strongest.rho.p)}, uncorrected).` : `${detail.name}: fewer than five ranked groups, so no correlation is computed.`,
    note: "Upwards: drop in pp. Each point is a group. A correlation over a handful of groups explains nothing by itself.",
    table: {
      head: ["Group", "Drop, pp", ...statistics.map(nameOfStatistic)],
      rows: [...drops].map(([group, drop]) => [
        cell(group, null, group), cell(formatPp(drop.drop_pp), drop.drop_pp),
        ...statistics.map((statistic) => rows.find((row) => row.statistic === statistic && row.group === group)?.value ?? null).map((value) => cell(formatNumber(value), value)),
      ]),
    },
  };
};

const drawShifts = (view, { colors, width }) => {
  const { detail, db } = view;
  if (!detail) return { empty: "no quantized configuration is left" };
  const rows = db.shifts.find(["config", "runtime", "comparison", "grouping"], [detail.index, view.runtime, view.sideOf(detail), view.grouping]).map((row) => db.shifts.row(row));
  if (!rows.length) return { empty: db.leftOut.shifts ? `shifts: ${db.leftOut.shifts}` : view.lacksSide };
  const classes = [...new Set(rows.map((row) => row.class))];
  const groups = view.groups.filter(({ ranked, name }) => ranked && rows.some((row) => row.group === name));
  const at = new Map(rows.map((row) => [`${row.group}\u0001${row.class}`, row.shift_pp]));
  const z = groups.map(({ name }) => classes.map((one) => at.get(`${name}\u0001${one}`) ?? null));
  const limit = limitOf(z.flat(), 1);
  const length = width < 560 ? 14 : 30;
  const left = 18 + 6.8 * Math.max(...groups.map(({ name }) => Math.min(name.length, length)));
  const largest = rows.filter((row) => groups.some(({ name }) => name === row.group)).sort((a, b) => b.shift_pp - a.shift_pp)[0];
  return {
    data: [{
      type: "heatmap", z, x: classes.map((_, i) => i), y: groups.map((_, i) => i), zmid: 0, zmin: -limit, zmax: limit, xgap: 2, ygap: 2, colorscale: scaleOf(colors), showscale: false,
      text: z.map((line) => line.map(formatPp)), texttemplate: classes.length > 20 ? "" : "%{text}", textfont: { size: 11, color: colors.ink }, meta: { ticks: { y: groups.map(({ name }) => name) } },
      customdata: groups.map(({ name }, i) => classes.map((one, j) => `${label(name, 40)} predicted as <b>${label(one, 40)}</b><br>${formatPp(z[i][j])} pp`)), hovertemplate: "%{customdata}<extra></extra>",
    }],
    layout: layoutOf(colors, 70 + 26 * groups.length, {
      margin: { l: left, r: 8, t: 48, b: 8, pad: 4 },
      xaxis: axis(colors, { tickvals: classes.map((_, i) => i), ticktext: classes.map((one) => label(one, 9)), side: "top", showgrid: false, tickangle: 0, range: [-0.5, classes.length - 0.5], automargin: false, title: axisTitle("predicted as", colors) }),
      yaxis: axis(colors, { tickvals: groups.map((_, i) => i), ticktext: groups.map(({ name }) => label(name, length)), range: [groups.length - 0.5, -0.5], showgrid: false, automargin: false }),
    }),
    minWidth: left + 44 * classes.length,
    summary: largest ? `${detail.name}: most drawn to ${largest.class} are images of ${view.byClass ? "class " : ""}${largest.group}, ${formatPp(largest.shift_pp)} pp more often.` : "",
    note: `How much more often (orange) or less often (purple) images of a ${view.noun} are predicted as a class than by ${COMPARISONS[view.comparison]}, in pp of the ${view.noun}; means over seeds.${view.byClass ? " Rows are true classes: this is the change of the confusion matrix." : ""}`,
    table: {
      head: [view.byClass ? "Class" : "Group", ...classes.map((one) => `as ${one}, pp`)],
      rows: groups.map(({ name }, i) => [cell(name, null, name), ...classes.map((_, j) => cell(formatPp(z[i][j]), z[i][j], name))]),
    },
  };
};

const drawCalibration = (view, { colors, width }) => {
  const { detail, db } = view;
  if (!detail) return { empty: "no quantized configuration is left" };
  const reference = db.allConfigs[db.allTrials[detail.trials[0]?.reference]?.config];
  const shown = [reference, detail].filter(Boolean);
  const read = (config, group) => db.reliability.find(["config", "runtime", "grouping", "group"], [config.index, isQuantized(config) ? view.runtime : "torch", view.grouping, group]).map((row) => db.reliability.row(row)).filter(({ n }) => n >= 20);
  const groups = view.groups.filter(({ ranked, name }) => ranked && shown.some((config) => read(config, name).length));
  if (!detail.primary) return { empty: "bins of confidence are on the page for the configurations that val chose; those of all are in tables/reliability" };
  if (!groups.length) return { empty: "no reliability is known of these groups" };
  const { places, total } = placePanels(shown.length, width, 320, { gapX: width < 2 * PANEL ? 0 : 0.08 });
  const layout = layoutOf(colors, total, { margin: { l: 52, r: 16, t: 8, b: 8, pad: 4 }, annotations: [], shapes: [] });
  const data = shown.flatMap((config, i) => {
    const { x, y, suffix, titleAt } = places[i];
    layout[`xaxis${suffix}`] = axis(colors, { domain: x, anchor: `y${suffix}`, tickformat: ".0%", automargin: false });
    layout[`yaxis${suffix}`] = axis(colors, { domain: y, anchor: `x${suffix}`, tickformat: ".0%", automargin: false });
    layout.annotations.push(note(`<b>${label(bitsName(config) === "FP32" ? "FP32" : config.name, 40)}</b>`, colors, { x: titleAt[0], y: titleAt[1], yanchor: "top", font: { color: colors.ink, size: 13 } }));
    layout.shapes.push({ type: "line", xref: `x${suffix}`, yref: `y${suffix}`, x0: 0.1, y0: 0.1, x1: 1, y1: 1, line: { color: colors.muted, width: 1, dash: "dot" }, layer: "below" });
    return groups.map((group) => {
      const bins = read(config, group.name);
      const color = colorOf(view, group, colors);
      return {
        type: "scatter", mode: "lines+markers", xaxis: `x${suffix}`, yaxis: `y${suffix}`, x: bins.map(({ confidence }) => confidence), y: bins.map(({ accuracy }) => accuracy),
        line: { color, width: 1.5 }, marker: { color, size: 5 }, opacity: isBright(view, group) ? 1 : 0.4, meta: { groups: group.name }, hovertemplate: "%{text}<extra></extra>",
        text: bins.map((bin) => `<b>${label(group.name, 40)}</b><br>sure of ${formatPercent(bin.confidence)}, right on ${formatPercent(bin.accuracy)}${sayInterval(bin.ci_low, bin.ci_high, (one) => (100 * one).toFixed(1))}<br>${bin.n} answers`),
      };
    });
  });
  const errors = groups.map((group) => ({ group, ece: view.value(detail, group.name, { metric: "ece" }) })).filter(({ ece }) => isNumber(ece)).sort((a, b) => b.ece - a.ece);
  return {
    data, layout,
    summary: errors.length ? `${detail.name}: the expected calibration error is largest for ${nameOf(view, errors[0].group)}, ${formatNumber(errors[0].ece)}.` : "No calibration error is known: groups have under 100 images.",
    note: "Across: confidence; upwards: accuracy. Below the dotted line a model is surer than it is right. Bins with under 20 answers are left out here; seeds are pooled.",
    table: {
      head: ["Configuration", "Group", "Confidence", "Right", "Answers", "ECE"],
      rows: shown.flatMap((config) => groups.flatMap(({ name }) => {
        const ece = view.value(config, name, { metric: "ece", runtime: isQuantized(config) ? view.runtime : "torch" });
        return read(config, name).map((bin) => [cell(config.name), cell(name, null, name), cell(formatPercent(bin.confidence), bin.confidence), cell(formatPercent(bin.accuracy), bin.accuracy), cell(bin.n, bin.n), cell(formatNumber(ece), ece)]);
      })),
    },
  };
};

// Runtimes side by side: what they answer otherwise, how long they take, how large they are.
const drawRuntimes = (view, { colors, width }) => {
  const { db } = view;
  const measured = view.configs.map((config) => {
    const rows = config.trials.flatMap((trial) => db.runtimes.find(["trial"], [trial.index]).map((row) => db.runtimes.row(row)));
    return { config, rows };
  }).filter(({ rows }) => rows.length);
  if (!measured.length) {
    const alone = 'this sweep measured torch alone; runtimes = ["torch", "onnxruntime"] measures what ships';
    return { empty: db.runtimes.length ? "no configuration that the filters leave was measured in another runtime than torch" : alone };
  }
  const runtimes = [...new Set(measured.flatMap(({ rows }) => rows.map(({ runtime }) => runtime)))];
  const lines = measured.flatMap(({ config, rows }) => runtimes.map((runtime) => {
    const own = rows.filter((row) => row.runtime === runtime);
    const timed = own.filter((row) => row.batch === 1 && row.session !== "exact");
    const twin = view.drop(config, "all", { comparison: "twin", runtime, grouping: "overall" });
    const worst = view.groups.filter(({ ranked }) => ranked).map((group) => ({ group, drop: view.drop(config, group.name, { comparison: "twin", runtime }) })).filter(({ drop }) => drop).sort((a, b) => b.drop.drop_pp - a.drop.drop_pp)[0];
    return { config, runtime, own, p50: meanOf(timed.map((row) => row.p50_ms)), p95: meanOf(timed.map((row) => row.p95_ms)), bytes: meanOf(own.map((row) => row.file_bytes)), twin, worst, reason: own.find((row) => row.reason)?.reason ?? null };
  })).filter(({ own }) => own.length);
  const drawn = lines.filter(({ twin }) => twin).slice(0, MOST_ROWS);
  const table = {
    head: ["Configuration", "Runtime", "All images: drop against torch, pp", `Largest drop of a ${view.noun}, pp`, "Other answers", "p50, ms", "p95, ms", "File", "Status"],
    rows: lines.map(({ config, runtime, twin, worst, p50, p95, bytes, reason, own }) => [
      cell(config.name), cell(runtime), cell(twin ? `${formatPp(twin.drop_pp)}${sayInterval(twin.drop_ci_low_pp, twin.drop_ci_high_pp)}` : MISSING, twin?.drop_pp ?? null),
      worst ? cell(`${worst.group.name}: ${formatPp(worst.drop.drop_pp)}${sayInterval(worst.drop.drop_ci_low_pp, worst.drop.drop_ci_high_pp)}`, worst.drop.drop_pp, worst.group.name) : cell(MISSING),
      cell(twin ? formatPercent(twin.flip_rate, 2) : MISSING, twin?.flip_rate ?? null), cell(formatNumber(p50), p50), cell(formatNumber(p95), p95), cell(formatBytes(bytes), bytes), cell(reason ?? own[0].status),
    ]),
  };
  if (!drawn.length) return { empty: `no configuration here has a result: ${lines[0].reason ?? "see the table"}`, table };
  const length = width < 560 ? 18 : 34;
  const names = drawn.map(({ config, runtime }) => (runtimes.length > 1 ? `${config.name}, ${runtime}` : config.name));
  const left = 14 + 6.6 * Math.max(...names.map((name) => Math.min(name.length, length)));
  const rows = drawn.map((_, i) => i);
  const wide = width > 620;
  const domains = wide ? [[0, 0.46], [0.54, 0.74], [0.82, 1]] : [[0, 1]];
  const error = {
    type: "data", symmetric: false, thickness: 1.5, width: 0, color: colors.ink, array: drawn.map(({ twin }) => twin.drop_ci_high_pp - twin.drop_pp), arrayminus: drawn.map(({ twin }) => twin.drop_pp - twin.drop_ci_low_pp),
  };
  const bars = (suffix, values, texts) => ({ type: "bar", orientation: "h", xaxis: `x${suffix}`, y: rows, x: values, text: texts, textposition: "none", hovertemplate: "%{text}<extra></extra>", marker: { color: colors.hues[5] }, width: 0.6 });
  const data = [
    { type: "scatter", mode: "markers", y: rows, x: drawn.map(({ twin }) => twin.drop_pp), error_x: error, marker: { size: 8, color: colors.ink }, text: drawn.map(({ twin }, i) => `<b>${escapeText(names[i])}</b><br>on all images it ${sayDrop(twin.drop_pp, twin.drop_ci_low_pp, twin.drop_ci_high_pp)}<br>${formatPercent(twin.flip_rate, 2)} other answers`), hovertemplate: "%{text}<extra></extra>" },
    { type: "scatter", mode: "markers", y: rows.filter((i) => drawn[i].worst), x: drawn.filter(({ worst }) => worst).map(({ worst }) => worst.drop.drop_pp), marker: { size: 9, symbol: "diamond", color: colors.focus }, meta: { groups: drawn.filter(({ worst }) => worst).map(({ worst }) => worst.group.name) }, text: drawn.filter(({ worst }) => worst).map(({ worst }) => `<b>${label(worst.group.name, 40)}</b> ${sayDrop(worst.drop.drop_pp, worst.drop.drop_ci_low_pp, worst.drop.drop_ci_high_pp)}`), hovertemplate: "%{text}<extra></extra>" },
    ...(wide ? [bars("2", drawn.map(({ p50 }) => p50), drawn.map(({ p50, p95 }) => `${formatNumber(p50)} ms, 95 % under ${formatNumber(p95)} ms`)), bars("3", drawn.map(({ bytes }) => (isNumber(bytes) ? bytes / 1000 : null)), drawn.map(({ bytes }) => formatBytes(bytes)))] : []),
  ];
  const titles = ["drop against torch, pp", "ms for one image", "file, kB"];
  const axes = Object.fromEntries(domains.map((domain, i) => [`xaxis${i ? i + 1 : ""}`, axis(colors, { domain, title: axisTitle(titles[i], colors), automargin: false, nticks: 4, ...(i ? { rangemode: "tozero" } : {}) })]));
  const most = [...drawn].sort((a, b) => Math.abs(b.worst?.drop.drop_pp ?? b.twin.drop_pp) - Math.abs(a.worst?.drop.drop_pp ?? a.twin.drop_pp))[0];
  return {
    data, layout: layoutOf(colors, 60 + ROW * drawn.length, { margin: { l: left, r: 16, t: 8, b: 46, pad: 4 }, ...axes, yaxis: axis(colors, { tickvals: rows, ticktext: names.map((name) => wrapLabel(name, length)), tickfont: { color: colors.muted, size: 11 }, range: [drawn.length - 0.5, -0.5], showgrid: false, automargin: false }), shapes: [zeroLine(colors, "y")] }),
    summary: `Most changes ${most.config.name} in ${most.runtime}: ${formatPercent(most.twin.flip_rate, 2)} of the answers${most.worst ? `; ${nameOf(view, most.worst.group)} ${sayDrop(most.worst.drop.drop_pp, most.worst.drop.drop_ci_low_pp, most.worst.drop.drop_ci_high_pp)} against torch` : ""}.`,
    note: `Dots: all images, with the 95 % interval; diamonds: the ${view.noun} that loses most. Latencies were taken beside whatever else the machine did.${wide ? "" : " Latency and size are in the table."}`, table,
  };
};

const drawSensitivity = (view, { colors, width }) => {
  const { detail, db } = view;
  const rows = detail ? db.sensitivity.find(["config", "grouping"], [detail.index, view.grouping]).map((row) => db.sensitivity.row(row)) : [];
  if (!rows.length) return { empty: 'no sensitivity of layers is known; analysis = ["sensitivity"] measures it' };
  const layers = [...new Set(rows.map(({ layer }) => layer))];
  const groups = view.groups.filter(({ name }) => rows.some(({ group }) => group === name));
  const at = new Map(rows.map((row) => [`${row.layer}\u0001${row.group}`, row.drop_pp]));
  const z = layers.map((layer) => groups.map(({ name }) => at.get(`${layer}\u0001${name}`) ?? null));
  const limit = limitOf(z.flat(), 1);
  const left = 18 + 6.8 * Math.max(...layers.map((layer) => Math.min(layer.length, 26)));
  const largest = [...rows].sort((a, b) => b.drop_pp - a.drop_pp)[0];
  return {
    data: [{
      type: "heatmap", z, x: groups.map((_, i) => i), y: layers.map((_, i) => i), zmid: 0, zmin: -limit, zmax: limit, xgap: 2, ygap: 2, colorscale: scaleOf(colors), showscale: false,
      text: z.map((line) => line.map(formatPp)), texttemplate: "%{text}", textfont: { size: 11, color: colors.ink }, meta: { ticks: { x: groups.map(({ name }) => name) } },
      customdata: layers.map((layer, i) => groups.map(({ name }, j) => `${escapeText(layer)} alone<br><b>${label(name, 40)}</b> ${sayDrop(z[i][j])}`)), hovertemplate: "%{customdata}<extra></extra>",
    }],
    layout: layoutOf(colors, 60 + 26 * layers.length, {
      margin: { l: left, r: 8, t: 44, b: 8, pad: 4 }, xaxis: axis(colors, { tickvals: groups.map((_, i) => i), ticktext: groups.map(({ name }) => label(name, 10)), side: "top", tickangle: 0, showgrid: false, range: [-0.5, groups.length - 0.5], automargin: false }),
      yaxis: axis(colors, { tickvals: layers.map((_, i) => i), ticktext: layers.map((layer) => label(layer, 26)), range: [layers.length - 0.5, -0.5], showgrid: false, automargin: false }),
    }),
    minWidth: left + 46 * groups.length,
    summary: `${detail.name}: ${largest.layer} alone costs ${view.byClass ? "class " : ""}${largest.group} most: ${sayDrop(largest.drop_pp)}.`,
    note: "Drop on validation images with this layer alone quantized, in pp; means over seeds.",
    table: { head: ["Layer", ...groups.map(({ name }) => name)], rows: layers.map((layer, i) => [cell(layer), ...groups.map(({ name }, j) => cell(formatPp(z[i][j]), z[i][j], name))]) },
  };
};
