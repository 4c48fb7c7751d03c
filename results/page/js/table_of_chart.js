// Tables: the twin of every chart, and what is downloaded of it.
// A cell of a table: what it says, the number behind it, the group that it is of, and the number's interval.
const cell = (text, value = null, group = null, limits = null) => ({ text: String(text), value, group, limits });

const renderTable = (table, title) => {
  const made = document.createElement("table");
  made.className = "twin";
  const caption = made.createCaption();
  caption.textContent = title;
  const head = made.createTHead().insertRow();
  for (const text of table.head) {
    const th = document.createElement("th");
    th.scope = "col";
    th.textContent = text;
    head.append(th);
  }
  const body = made.createTBody();
  for (const cells of table.rows) {
    const row = body.insertRow();
    cells.forEach(({ text, value, group }, place) => {
      const td = place === 0 ? document.createElement("th") : document.createElement("td");
      if (place === 0) td.scope = "row";
      td.textContent = text;
      if (isNumber(value)) td.dataset.value = String(value);
      if (group !== null) td.dataset.group = group;
      row.append(td);
    });
  }
  letArrowsMove(body);
  return made;
};

// Names of groups at the left of a table are one stop of the keyboard; arrows go from one to the next.
const letArrowsMove = (body) => {
  const heads = [...body.querySelectorAll("th[data-group]")];
  heads.forEach((head, i) => {
    head.tabIndex = i ? -1 : 0;
    head.addEventListener("keydown", (event) => {
      const next = { ArrowDown: heads[i + 1], ArrowUp: heads[i - 1] }[event.key];
      if (!next) return;
      event.preventDefault();
      head.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  });
};

const BOM = "\ufeff"; // without it spreadsheets read other letters than were written

// A column each for the limits of intervals; nothing where nothing is known. `shown` says in every row what it is of.
const toCsv = ({ head, rows }, shown) => {
  // A cell that begins like a formula would run in a spreadsheet: names come from data.
  const guard = (text) => (/^\s*[=+\-@]/.test(text) ? `'${text}` : text);
  const quote = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const number = (value) => (isNumber(value) ? String(Number(value.toPrecision(6))) : "");
  const isShare = head.map((_, i) => rows.some((cells) => isNumber(cells[i].value) && cells[i].text.endsWith(" %")));
  const say = ({ text, value }, i) =>
    isNumber(value) ? number(isShare[i] ? 100 * value : value) : text === MISSING ? "" : quote(guard(text));
  const hasLimits = head.map((_, i) => rows.some((cells) => isNumber(cells[i].limits?.low)));
  const spread = (i, ...texts) => (hasLimits[i] ? texts : texts.slice(0, 1));
  const named = head.map((text, i) => (isShare[i] ? `${text}, %` : text));
  const first = named.flatMap((text, i) =>
    spread(i, ...[text, `${text}: low`, `${text}: high`].map((one) => quote(guard(one)))),
  );
  const line = (cells) =>
    cells.flatMap((one, i) => spread(i, say(one, i), number(one.limits?.low), number(one.limits?.high)));
  const lines = [[...first, "Shown"], ...rows.map((cells) => [...line(cells), quote(guard(shown))])];
  return BOM + lines.map((cells) => cells.join(",")).join("\r\n") + "\r\n";
};

const download = (href, name) => Object.assign(document.createElement("a"), { href, download: name }).click();

const downloadCsv = (table, shown, name) => {
  const url = URL.createObjectURL(new Blob([toCsv(table, shown)], { type: "text/csv" }));
  download(url, `${name}.csv`);
  URL.revokeObjectURL(url);
};
