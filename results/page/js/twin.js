// Tables: the twin of every chart, and what is downloaded of it.
// A cell of a table: what it says, the number behind it, and the group that it is of.
const cell = (text, value = null, group = null) => ({ text: String(text), value, group });

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
  return made;
};

const toCsv = (table) => {
  // A cell that begins like a formula would run in a spreadsheet: names come from data.
  const guard = (text) => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);
  const quote = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const line = (cells) =>
    cells.map(({ text, value }) => (isNumber(value) ? String(value) : quote(guard(text)))).join(",");
  return [line(table.head.map((text) => cell(text))), ...table.rows.map(line)].join("\r\n") + "\r\n";
};

const download = (href, name) => Object.assign(document.createElement("a"), { href, download: name }).click();
