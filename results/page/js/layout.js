// Colours, axes and layouts that all charts share.
const LIGHT = {
  ink: "#1f2933",
  muted: "#5f6b76",
  faint: "#d9dde1",
  ground: "#ffffff",
  focus: "#d55e00",
  hues: ["#0072b2", "#d55e00", "#009e73", "#b0588f", "#b87400", "#2f8fc4", "#7d7300", "#000000"],
  diverging: ["#998ec3", "#b9b1d8", "#d8daeb", "#f7f7f7", "#fee0b6", "#fdb863", "#e08214"],
};

const DARK = {
  ink: "#e7ebee",
  muted: "#9ba7b2",
  faint: "#353d45",
  ground: "#15191d",
  focus: "#f0803c",
  hues: ["#4ba3dd", "#f0803c", "#2fbf95", "#dc9bc0", "#f0b440", "#7cc8f2", "#e0d442", "#fafafa"],
  diverging: ["#6a55b0", "#51458a", "#383459", "#262b30", "#4a3820", "#704d19", "#935a10"],
};

const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";

const MOST_HUES = 8; // with more groups all are grey but the highlighted one

const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon"]; // of methods

const night = window.matchMedia("(prefers-color-scheme: dark)");

const colorOf = (view, group, colors) => {
  if (view.groups.length <= MOST_HUES) return colors.hues[group.index];
  return group.name === view.highlighted ? colors.focus : colors.muted;
};

const isBright = (view, group) => view.groups.length <= MOST_HUES || group.name === view.highlighted;

const axis = (colors, more = {}) => ({
  fixedrange: true,
  showline: false,
  zeroline: false,
  ticks: "",
  gridcolor: colors.faint,
  automargin: true,
  tickfont: { color: colors.muted, size: 12 },
  ...more,
});

const axisTitle = (text, colors) => ({ text, font: { color: colors.muted, size: 12 }, standoff: 6 });

const layoutOf = (colors, height, more = {}) => ({
  height,
  margin: { l: 12, r: 16, t: 12, b: 12, pad: 4 },
  showlegend: false,
  dragmode: false,
  hovermode: "closest",
  paper_bgcolor: colors.ground,
  plot_bgcolor: colors.ground,
  font: { color: colors.ink, size: 12, family: FONT },
  hoverlabel: { bgcolor: colors.ground, bordercolor: colors.muted, align: "left", font: { color: colors.ink } },
  ...more,
});

const note = (text, colors, more = {}) => ({
  text,
  showarrow: false,
  font: { color: colors.muted, size: 12 },
  xref: "paper",
  yref: "paper",
  xanchor: "left",
  yanchor: "bottom",
  ...more,
});

const zeroLine = (colors, along) => ({
  type: "line",
  line: { color: colors.muted, width: 1 },
  layer: "below",
  ...(along === "x" ? { xref: "paper", x0: 0, x1: 1, y0: 0, y1: 0 } : { yref: "paper", y0: 0, y1: 1, x0: 0, x1: 0 }),
});

const ROW = 30; // px of a row: two lines of a name
const MOST_ROWS = 60; // of a chart; its table has all

// An axis of rows by name, the first on top, and the px that the names take at its left.
const nameRows = (names, width, colors) => {
  const length = width < 560 ? 18 : 34;
  return {
    left: 16 + 6.6 * Math.max(...names.map((name) => Math.min(name.length, length))),
    axis: axis(colors, {
      tickvals: names.map((_, i) => i),
      ticktext: names.map((name) => wrapLabel(name, length)),
      tickfont: { color: colors.muted, size: 11 },
      range: [names.length - 0.5, -0.5],
      showgrid: false,
      automargin: false,
    }),
  };
};
