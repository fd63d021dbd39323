"use strict";
(() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const PAGE = 10;
  if (content.figures.length) Bokeh.set_log_level("error");  // a page without figures does not have Bokeh

  // ---- figures: each is drawn when it comes into view ----
  const drawn = new Map();

  function paint(view) {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const ink = color("--ink"), soft = color("--soft"), line = color("--line");
    for (const model of view.model.references()) {
      if (model.type.endsWith("Axis")) {
        model.setv({ axis_label_text_color: soft, major_label_text_color: ink, axis_line_color: line,
          major_tick_line_color: line });
      } else if (model.type === "Grid" && model.grid_line_color !== null) {
        model.setv({ grid_line_color: line });
      } else if (model.type === "Label") {
        model.setv({ text_color: ink });
      } else if (model.type === "Legend") {
        model.setv({ label_text_color: ink });
      }
    }
  }

  async function draw(place) {
    if (drawn.has(place)) return;
    drawn.set(place, null);
    const view = (await Bokeh.embed.embed_item(content.figures[Number(place.dataset.figure)], place)).roots[0];
    drawn.set(place, view);
    paint(view);
    place.dataset.drawn = "yes";
  }

  const places = [...document.querySelectorAll(".plot")];
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
    }
  }, { rootMargin: "400px" });
  places.forEach((place) => seen.observe(place));
  addEventListener("beforeprint", () => places.forEach(draw));
  dark.addEventListener("change", () => drawn.forEach((view) => view && paint(view)));

  // ---- tables: sorted by a click on a heading, filtered by words, shown in steps ----
  function make(kind, parent, options = {}) {
    return parent.appendChild(Object.assign(document.createElement(kind), options));
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a === "number") return -1;
    if (typeof b === "number") return 1;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  }

  function table(place, { columns, rows, links = [] }) {
    const target = new Map(rows.map((row, at) => [row, links[at]]));
    const numeric = columns.map((_, at) => rows.some((row) => typeof row[at] === "number"));
    let order = rows, key = -1, down = false, start = 0, words = "";
    const tools = rows.length > PAGE ? make("div", place, { className: "tools" }) : null;
    const frame = make("div", place, { className: "scroll" });
    const sheet = make("table", frame);
    const heads = make("tr", make("thead", sheet));
    const body = make("tbody", sheet);
    const cells = columns.map((name, at) => {
      const head = make("th", heads, { scope: "col", className: numeric[at] ? "number" : "" });
      make("button", head, { type: "button", textContent: name }).onclick = () => {
        down = key === at ? !down : numeric[at];
        key = at;
        start = 0;
        arrange();
      };
      return head;
    });
    let status, back, next;
    if (tools) {
      make("input", tools, { type: "search", placeholder: "filter", ariaLabel: "filter rows" }).oninput = (event) => {
        words = event.target.value.toLowerCase();
        start = 0;
        arrange();
      };
      back = make("button", tools, { type: "button", textContent: "← back" });
      next = make("button", tools, { type: "button", textContent: "next →" });
      status = make("span", tools, { ariaLive: "polite" });
      back.onclick = () => { start -= PAGE; show(); };
      next.onclick = () => { start += PAGE; show(); };
    }

    function arrange() {
      order = rows.filter((row) => !words || row.some((cell) => String(cell).toLowerCase().includes(words)));
      if (key >= 0) {
        const sign = down ? -1 : 1;  // empty cells come last in both directions
        order = order.map((row, at) => [row, at]).sort(([a, i], [b, j]) =>
          (a[key] === null) - (b[key] === null) || sign * compare(a[key], b[key]) || i - j).map(([row]) => row);
      }
      cells.forEach((head, at) =>
        at === key ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
      show();
    }

    function show() {
      body.replaceChildren();
      for (const row of order.slice(start, start + PAGE)) {
        const line = make("tr", body);
        row.forEach((cell, at) => {
          const place = make("td", line, { className: numeric[at] ? "number" : "" });
          const link = at === 0 && target.get(row) ? make("a", place, { href: target.get(row) }) : place;
          link.textContent = cell === null ? "" : String(cell);
        });
      }
      if (!tools) return;
      const end = Math.min(start + PAGE, order.length);
      status.textContent = order.length ? `${start + 1} to ${end} of ${order.length}` : "no rows";
      back.disabled = start === 0;
      next.disabled = end === order.length;
    }
    arrange();
  }

  for (const place of document.querySelectorAll(".table")) table(place, content.tables[Number(place.dataset.table)]);
})();
