// Numbers and names as the page writes them: `formatting.py` writes them alike.
const MISSING = "–";
const sentence = (text) => text[0].toUpperCase() + text.slice(1);
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

// Plotly reads a little HTML in every text, and "%{" as the start of a template: names from data are escaped there too.
const escapeText = (text) =>
  String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("%{", "&#37;{");
const shorten = (name, length) => {
  const letters = [...String(name)];
  return letters.length <= length
    ? String(name)
    : letters
        .slice(0, length - 1)
        .join("")
        .trimEnd() + "…";
};
const label = (name, length = 18) => escapeText(shorten(name, length));
// A name over two lines at the most, broken between words where it can be.
const wrapLabel = (name, length) => {
  const letters = [...name]; // never half of an emoji
  if (letters.length <= length) return escapeText(name);
  const spaces = letters.map((letter, i) => (letter === " " && i <= length && i > length / 3 ? i : 0));
  const at = Math.max(...spaces) || length;
  const rest = [...letters.slice(at).join("").trim()]; // its end tells it from others, so the middle goes
  const second = rest.length <= length ? rest : ["…", ...rest.slice(1 - length)];
  return `${escapeText(letters.slice(0, at).join("").trim())}<br>${escapeText(second.join(""))}`;
};

// What is left of names when the words that all begin with are cut: "…number 3".
const tellApart = (names) => {
  const words = names.map((name) => name.split(" "));
  const shortest = Math.min(...words.map((some) => some.length)) - 1;
  let same = 0;
  while (same < shortest && words.every((some) => some[same] === words[0][same])) same += 1;
  return names.length > 1 && same ? words.map((some) => `…${some.slice(same).join(" ")}`) : names;
};
const count = (number, noun) =>
  `${number.toLocaleString("en-US")} ${noun}${number === 1 ? "" : noun.endsWith("s") ? "es" : "s"}`;

const formatPercent = (fraction, digits = 1) =>
  isNumber(fraction) ? `${(100 * fraction).toFixed(digits)} %` : MISSING;
const signed = (text) => (Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−"));
const formatPp = (value) => {
  if (!isNumber(value)) return MISSING;
  const size = Math.abs(value);
  return signed(value.toFixed(size >= 0.005 && size < 0.095 ? 2 : 1));
};
const formatNumber = (value) => (isNumber(value) ? signed(String(Number(value.toPrecision(3)))) : MISSING);
const formatShort = (value) => (isNumber(value) ? signed(String(Number(value.toPrecision(2)))) : MISSING);
const formatP = (p) => (isNumber(p) ? (p < 0.001 ? "p < 0.001" : `p = ${Number(p.toPrecision(2))}`) : MISSING);
const formatBytes = (bytes) =>
  isNumber(bytes) ? `${(bytes / 1000).toLocaleString("en-US", { maximumFractionDigits: 0 })} kB` : MISSING;
// Limits are rounded away from each other, so that nobody reads more than is known.
const formatLimit = (value, toWhole) => {
  const digits = Math.abs(value) < 0.095 ? 2 : 1;
  const step = 10 ** digits;
  const shown = toWhole(Number((value * step).toFixed(6))) / step; // 1.1 is not 1.2, whatever its last bit
  return signed(shown.toFixed(shown === 0 ? 1 : digits));
};
const formatLow = (value) => formatLimit(value, Math.floor);
const formatHigh = (value) => formatLimit(value, Math.ceil);
const sayInterval = (low, high, sayLow = formatLow, sayHigh = formatHigh) =>
  isNumber(low) && isNumber(high) ? ` [${sayLow(low)},\u00a0${sayHigh(high)}]` : "";
const sayDrop = (drop, low, high) => {
  if (!isNumber(drop)) return MISSING;
  if (Number(drop.toFixed(2)) === 0) return `no change, 0.0 pp${sayInterval(low, high)}`;
  if (drop > 0) return `loses ${formatPp(drop)} pp${sayInterval(low, high)}`;
  return `gains ${formatPp(-drop)} pp${sayInterval(isNumber(high) ? -high : null, isNumber(low) ? -low : null)}`;
};

// The metrics of the filter: what a value is called, how it is written, what a change of it is, and whether more of
// that change is worse; of others neither is.
const METRICS = {
  accuracy: { name: "Accuracy", format: formatPercent, change: "drop, pp", times: -100, isLoss: true },
  loss_nats: { name: "Loss", format: formatNumber, change: "excess loss, nats", times: 1, isLoss: true },
  confidence: { name: "Confidence", format: formatPercent, change: "change of confidence, pp", times: 100 },
  margin: { name: "Margin", format: formatNumber, change: "loss of margin", times: -1, isLoss: true },
  entropy_nats: { name: "Entropy", format: formatNumber, change: "change of entropy, nats", times: 1 },
  ece: { name: "Calibration error", format: formatNumber, change: "rise of calibration error", times: 1, isLoss: true },
  f1: { name: "F1", format: formatNumber, change: "loss of F1", times: -1, isLoss: true },
};
const metricOf = (key) => METRICS[key] ?? { name: key, format: formatNumber, change: `change of ${key}`, times: 1 };
