"use strict";
(() => {
  const $ = (selector, where = document) => where.querySelector(selector);

  /** Make an element; texts are set as texts, so that nothing of the data is ever markup. */
  function make(name, properties = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(properties)) {
      if (key in element) element[key] = value;
      else element.setAttribute(key, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  /* Tables: a press of a header sorts by it, another one the other way round. */
  function sorted(button) {
    const header = button.closest("th"), table = button.closest("table"), body = table.tBodies[0];
    const place = header.cellIndex, was = header.getAttribute("aria-sort");
    const up = was ? was === "descending" : button.dataset.first === "up";
    const key = (row) => row.cells[place].dataset.value;
    const text = (row) => row.cells[place].textContent.trim();
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x !== undefined && y !== undefined) return (up ? 1 : -1) * (Number(x) - Number(y));
      // What has no figure stays last, whichever way.
      if (x !== undefined || y !== undefined) return x === undefined ? 1 : -1;
      return (up ? 1 : -1) * text(a).localeCompare(text(b), undefined, { numeric: true });
    };
    for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...[...body.rows].sort(order));
  }

  /* Explanations: what belongs to the same query tokens is lit together. */
  let pinned = null;
  function light(source) {
    for (const one of document.querySelectorAll(".explanation.pointed")) {
      one.classList.remove("pointed");
      for (const lit of one.querySelectorAll(".lit")) lit.classList.remove("lit");
    }
    const explanation = source && source.closest(".explanation");
    if (!explanation) return;
    const tokens = new Set(source.dataset.tokens.split(" "));
    explanation.classList.add("pointed");
    for (const one of explanation.querySelectorAll("[data-tokens]"))
      one.classList.toggle("lit", one.dataset.tokens.split(" ").some((token) => tokens.has(token)));
  }
  const pointed = (event) => event.target.closest && event.target.closest("[data-tokens]");
  document.addEventListener("mouseover", (event) => light(pointed(event) || pinned));
  document.addEventListener("focusin", (event) => light(pointed(event) || pinned));
  document.addEventListener("click", (event) => {
    const sort = event.target.closest("button.sort");
    if (sort) sorted(sort);
    const token = event.target.closest("button.token");
    if (!token) return;
    if (pinned) pinned.setAttribute("aria-pressed", "false");
    pinned = pinned === token ? null : token;
    if (pinned) pinned.setAttribute("aria-pressed", "true");
    light(pinned);
  });

  /* Queries: made from the data as they are asked for. */
  const block = $("#data");
  if (!block) return;
  const data = JSON.parse(block.textContent);
  const main = data.measures.indexOf(data.main);
  const list = $("#list"), more = $("#more"), words = $("#words"), order = $("#order");
  const PAGE = 50;
  let found = [], shown = 0;
  data.queries.forEach((query, place) => {
    query.place = place;
    query.words = [query.id, query.text, query.instruction, ...Object.values(query.attributes), query.why || ""]
      .join("\n").toLowerCase();
  });

  function hit([place, rank, score, grade]) {
    const document_ = data.documents[place];
    const pictures = (document_.pictures || []).map((uri) => make("img", { src: uri, alt: "" }));
    const texts = Object.entries(document_.texts || {}).flatMap(([name, text]) => [
      make("dt", {}, make("i", { className: `swatch m-${name}` }), name),
      make("dd", { dir: "auto", textContent: text }),
    ]);
    return make("li", { className: grade ? "hit good" : "hit" },
      make("span", { className: "rank" }, String(rank)),
      make("div", { className: "what" },
        make("code", { textContent: document_.id }), " ",
        make("bdi", { textContent: document_.title || "" }), " ",
        make("span", { className: "tag", textContent: `score ${score}` }), " ",
        grade ? make("span", { className: "tag good", textContent: grade > 1 ? `relevant, grade ${grade}` : "relevant" }) : null,
        pictures.length ? make("div", { className: "thumbs" }, ...pictures) : null,
        texts.length ? make("dl", { className: "snippets" }, ...texts) : null));
  }

  function inside(query) {
    const values = query.values.map((value, i) =>
      make("span", {}, `${data.measures[i]} `, make("b", { textContent: value })));
    const facts = Object.entries(query.attributes).map(([name, value]) =>
      make("span", { className: "tag", textContent: `${name.replaceAll("_", " ")}: ${value}` }));
    const template = $(`template[data-query="${query.place}"]`);
    const missing = query.unlisted;
    return make("div", { className: "inside" },
      make("div", { className: "values" }, ...values, ...facts),
      query.instruction ? make("p", { className: "quiet", textContent: query.instruction }) : null,
      query.image ? make("img", { className: "asked", src: query.image, alt: "the query's image" }) : null,
      query.documents.length ? make("ol", { className: "hits" }, ...query.documents.map(hit)) : make("p", {}, "No document was found."),
      missing ? make("p", { className: "quiet" }, `${missing} of ${query.relevant} relevant documents are not in the list.`) : null,
      template ? template.content.cloneNode(true) : null);
  }

  function item(query) {
    const first = query.documents.find((one) => one[3]);
    const value = main >= 0 && query.values.length
      ? make("span", { className: "value" }, query.values[main], make("small", {}, ` ${data.main}`)) : null;
    const details = make("details", { className: "query" },
      make("summary", {},
        make("span", { className: "asked", dir: "auto" }, make("bdi", { textContent: query.text }),
          make("code", { textContent: query.id })),
        query.why !== undefined ? make("span", { className: "tag", textContent: query.why || "in detail" }) : null,
        make("span", { className: first ? "tag good" : "tag" },
          first ? `relevant at ${first[1]}` : query.relevant ? "not found" : "not judged"),
        value));
    details.addEventListener("toggle", () => {
      if (details.open && !$(".inside", details)) details.append(inside(query));
    });
    return details;
  }

  function show() {
    list.append(...found.slice(shown, shown + PAGE).map(item));
    shown = Math.min(shown + PAGE, found.length);
    more.hidden = shown >= found.length;
  }

  function search() {
    const asked = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const groups = [...document.querySelectorAll("#groups select")].filter((one) => one.value);
    found = data.queries.filter((query) =>
      asked.every((word) => query.words.includes(word)) &&
      groups.every((one) => query.attributes[one.name] === one.value) &&
      (!$("#detailed").checked || query.why !== undefined));
    if (order.value === "detail") {
      found.sort((a, b) => (a.why === undefined) - (b.why === undefined) || a.place - b.place);
    } else if (order.value !== "file") {
      const sign = order.value === "worst" ? 1 : -1;
      const good = (query) => (query.good === null ? Infinity : sign * query.good);
      found.sort((a, b) => good(a) - good(b) || a.place - b.place);
    }
    list.replaceChildren();
    shown = 0;
    show();
    $("#count").textContent = `${found.length.toLocaleString("en")} of ${data.queries.length.toLocaleString("en")} queries`;
  }

  for (const name of data.groups) {
    const values = [...new Set(data.queries.map((query) => query.attributes[name]).filter(Boolean))].sort();
    const options = values.map((value) => make("option", { value, textContent: value }));
    $("#groups").append(make("label", {}, name.replaceAll("_", " "), " ",
      make("select", { name }, make("option", { value: "" }, "all"), ...options)));
  }
  $("#search").hidden = false;
  $("#search").addEventListener("input", search);
  $("#search").addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", show);
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      words.focus();
    } else if (event.key === "Escape" && event.target === words) {
      words.value = "";
      search();
    }
  });
  search();
})();
