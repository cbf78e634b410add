// Charts and tables of the page. `content` (groups: data and Vega specifications of the charts; tables: columns and
// rows) and `datatables` (the address of the module) come from the page, vegaEmbed from the bundle before this script.

const views = {}; // by group, then by chart: Vega's views

document.getElementById("theme").addEventListener("click", () => {
  setDark(!document.documentElement.classList.contains("dark"));
});

async function draw(place) {
  const { group, chart } = place.dataset;
  const { datasets, specs } = content.groups[group];
  for (const data of specs[chart].data) {
    if (data.name in datasets) data.values = datasets[data.name];
  }
  const result = await vegaEmbed(place, specs[chart], {
    actions: false,
    bind: place.parentElement.querySelector(".menus"),
    mode: "vega",
    renderer: "svg", // its colours may be CSS variables
  });
  (views[group] ??= {})[chart] = result.view;
}

// A button of the legend hides its contender in every chart of the group.
function toggle(button) {
  button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
  const section = button.closest("section");
  const hidden = [...section.querySelectorAll(".chips [aria-pressed=false]")].map((b) => b.dataset.contender);
  for (const view of Object.values(views[section.id])) view.signal("hidden", hidden).runAsync();
}

// Three digits at least, and no exponent: 0.123, 12.3, 1,234.
function number(value) {
  const digits = value === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// How a value is shown, by kind of column.
const text = {
  word: (value) => value,
  flag: (value, title) => (value ? title : ""),
  count: (value) => value.toLocaleString("en"),
  number,
  percent: (value) => `${value.toFixed(0)}%`,
  ratio: (value) => `${value.toFixed(2)}×`,
};

async function tabulate() {
  const { default: DataTable } = await import(datatables);
  const column = ({ key, title, kind }) => {
    const named = kind === "word" || kind === "flag";
    const show = (value) => (value === undefined ? "" : text[kind](value, title));
    // Numbers sort and filter by value; what is missing sorts below them.
    const render = (value, type) => (type === "display" ? show(value) : value ?? (type === "filter" ? "" : -1));
    return {
      className: named ? "word" : "number",
      data: (row) => (named ? show(row[key]) : row[key]),
      render: named ? DataTable.render.text() : render,
      columnControl: [[named ? "searchList" : "search"]],
    };
  };
  for (const table of document.querySelectorAll("table.data")) {
    const { columns, rows } = content.tables[table.dataset.table];
    new DataTable(table, {
      autoWidth: false,
      columns: columns.map(column),
      data: rows ?? content.groups[table.dataset.table].datasets.rows,
      layout: { topStart: "search", topEnd: "info", bottomStart: "pageLength", bottomEnd: "paging" },
      order: [],
      pageLength: 25,
    });
  }
}

document.querySelectorAll(".chips button").forEach((b) => b.addEventListener("click", () => toggle(b)));
// What tests wait for.
const ready = Promise.all([tabulate(), ...[...document.querySelectorAll(".chart")].map(draw)]);
