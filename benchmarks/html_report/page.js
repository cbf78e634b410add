// Charts and tables of the page. `charts` (data and specifications by group) and `datatables` (the address of the
// module) come from the page, vegaEmbed from the bundle before this script.

const views = {}; // by group, then by chart: Vega's views

document.getElementById("theme").addEventListener("click", () => {
  setDark(!document.documentElement.classList.contains("dark"));
});

async function draw(place) {
  const { group, chart } = place.dataset;
  const { datasets, specs } = charts[group];
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

async function tabulate() {
  const { default: DataTable } = await import(datatables);
  for (const table of document.querySelectorAll("table.data")) {
    new DataTable(table, {
      autoWidth: false,
      columnDefs: [
        { targets: "word", columnControl: [["searchList"]] },
        { targets: "number", columnControl: [["search"]] },
      ],
      layout: { topStart: "search", topEnd: "info", bottomStart: "pageLength", bottomEnd: "paging" },
      order: [],
      pageLength: 25,
    });
  }
}

document.querySelectorAll(".chips button").forEach((b) => b.addEventListener("click", () => toggle(b)));
// What tests wait for.
const ready = Promise.all([tabulate(), ...[...document.querySelectorAll(".chart")].map(draw)]);
