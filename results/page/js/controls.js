// The controls of the filters: built once, their choices anew at every change.
const buildControls = (form, state) => {
  const fields = new Map();
  const element = (tag, properties, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  for (const key of CHOICES) {
    const select = element("select", { id: `filter-${key}`, name: key });
    select.addEventListener("change", () => state.set({ [key]: select.value }));
    fields.set(key, select);
    form.append(element("label", { className: "filter" }, element("span", { textContent: LABELS[key] }), select));
  }
  for (const key of LISTS) {
    const box = element("div", { className: "choices" });
    fields.set(key, box);
    form.append(
      element("fieldset", { className: "filter", name: key }, element("legend", { textContent: LABELS[key] }), box),
    );
  }
  const reset = element("button", { type: "button", textContent: "Reset" });
  reset.addEventListener("click", () =>
    state.set({
      ...Object.fromEntries(LISTS.map((key) => [key, []])),
      ...Object.fromEntries(CHOICES.map((key) => [key, null])),
    }),
  );
  form.append(reset);

  const fillList = (key, box, options) => {
    const chosen = state.values[key];
    const same =
      [...box.querySelectorAll("input")].map((input) => input.value).join() === options.map(([value]) => value).join();
    if (!same) {
      box.replaceChildren(
        ...options.map(([value, text]) => {
          const input = element("input", { type: "checkbox", name: key, value });
          input.addEventListener("change", () =>
            state.set({ [key]: [...box.querySelectorAll("input:checked")].map((one) => one.value) }),
          );
          return element("label", {}, input, element("span", { textContent: text }));
        }),
      );
    }
    for (const input of box.querySelectorAll("input")) input.checked = chosen.includes(input.value);
  };
  const fill = () => {
    for (const [key, field] of fields) {
      const options = state.options(key);
      if (LISTS.includes(key)) fillList(key, field, options);
      else {
        field.replaceChildren(...options.map(([value, text]) => element("option", { value, textContent: text })));
        field.value = state.values[key];
      }
      field.closest(".filter").hidden = options.length < 2;
    }
  };
  state.listeners.unshift(fill);
  fill();
};
