"use strict";

// Sortable tables: every heading becomes a button; rows are sorted by data-value where there is one, else by the text.
function sortValue(cell) {
  const raw = cell.dataset.value !== undefined ? cell.dataset.value : cell.textContent.trim().replace(/\u2212/g, "-");
  const number = Number.parseFloat(raw);
  return Number.isNaN(number) || !/^[+-]?[\d.]/.test(raw) ? raw.toLowerCase() : number;
}

function compareValues(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  if (typeof one === "number") return -1;
  if (typeof other === "number") return 1;
  return one < other ? -1 : one > other ? 1 : 0;
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const body = table.tBodies[0];
      const keyed = [...body.rows].map((row) => [sortValue(row.cells[column]), row]);
      keyed.sort((one, other) => (descending ? -1 : 1) * compareValues(one[0], other[0]));
      body.append(...keyed.map((pair) => pair[1]));
    });
  });
}

// In print every table is open but the long ones; on the screen it is as the reader left it.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open]):not(.long)")];
  opened.forEach((item) => { item.open = true; });
});
addEventListener("afterprint", () => opened.forEach((item) => { item.open = false; }));

function element(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== "" && child !== null && child !== undefined));
  return node;
}

const data = JSON.parse(document.getElementById("viewer-data").textContent);
const byId = (id) => document.getElementById(id);
const SCENARIOS = { single_hop: "Single-hop", parallel_single_hop: "Parallel single-hop", multi_hop: "Multi-hop", parallel_multi_hop: "Parallel multi-hop" };
const MARKS = { solved: "✓", useless: "○", failed: "✗" };

function option(value, text) { return element("option", { value }, text); }

function score(value) { return value === null || value === undefined ? "n/a" : Number(value).toFixed(2).replace("-", "\u2212"); }

function count(number, word) { return `${number} ${word}${number === 1 ? "" : "s"}`; }

function showCall(call) {
  const head = `${MARKS[call.state]} ${call.name}(${call.arguments})`;
  const note = call.state === "failed" ? (call.status === "ok" ? "reported an error" : `failed: ${call.status}`) : call.state === "useless" ? "ran, solved nothing" : "solved a sub-question";
  return element("div", { class: `call ${call.state}`, title: note }, element("code", {}, head),
    element("span", { class: "output" }, "→ ", element("code", {}, call.output)));
}

function showTurns(policy, id) {
  const episode = (data.episodes[policy] || {})[id];
  if (!episode) return [element("p", {}, "This policy has no episode of this environment.")];
  const answered = episode.answer_correct === null || episode.answer_correct === undefined ? "" : `, answer ${episode.answer_correct ? "correct" : "wrong"}`;
  const summary = `Solve-P ${score(episode.solve_p)}, Solve-R ${score(episode.solve_r)}, Solve-F1 ${score(episode.solve_f1)}: ${episode.solved} of ${count(episode.sub_questions, "sub-question")} in ${count(episode.calls, "call")}${answered}; ended: ${episode.outcome}`;
  const turns = episode.turns.map((turn, index) => element("article", { class: "turn" },
    element("h4", {}, element("span", {}, `Turn ${index + 1} (${String(turn.kind).replaceAll("_", " ")})`), element("span", {}, `reward ${score(turn.reward)}: ${count(turn.p, "call")}, ${turn.q} of ${turn.t} open sub-questions solved`)),
    turn.thinking ? element("details", {}, element("summary", {}, "thinking"), element("div", { class: "said" }, turn.thinking)) : "",
    turn.text ? element("div", { class: "said" }, turn.text) : turn.calls.length ? "" : element("div", { class: "said" }, "(empty)"),
    ...turn.calls.map(showCall)));
  return [element("p", { class: "caption" }, summary), ...turns];
}

function showQuestion(environment) {
  const plan = element("table", { class: "plan" }, element("thead", {}, element("tr", {}, element("th", {}, "Sub-question"), element("th", {}, "Gold call"), element("th", {}, "Gives"))),
    element("tbody", {}, ...environment.plan.map((step) => element("tr", {}, element("td", {}, step.question), element("td", {}, element("code", {}, step.call)), element("td", {}, step.answer)))));
  const tools = element("ul", {}, ...environment.tools.map((tool) => element("li", {}, element("code", {}, `${tool.name}(${tool.parameters.map((name) => tool.required.includes(name) ? name : name + "?").join(", ")})`), ` ${tool.description}`)));
  return [element("h3", {}, "Question"), element("p", { class: "said" }, environment.question), element("p", {}, "Answer: ", element("strong", {}, environment.answer === null ? "none given" : environment.answer)),
    element("details", { open: "" }, element("summary", {}, `Gold plan (${count(environment.plan.length, "step")})`), environment.plan.length ? element("div", { class: "scroll" }, plan) : element("p", {}, "This environment has no gold plan.")),
    element("details", {}, element("summary", {}, `Tools (${environment.tools.length})`), tools)];
}

function shownEnvironments() {
  const scenario = byId("scenario").value;
  return data.environments.filter((item) => !scenario || item.scenario === scenario);
}

function show() {
  const environment = data.environments.find((item) => item.id === byId("environment").value);
  if (!environment) return;
  byId("question").replaceChildren(...showQuestion(environment));
  byId("left-turns").replaceChildren(...showTurns(byId("left").value, environment.id));
  byId("right-turns").replaceChildren(...showTurns(byId("right").value, environment.id));
  const select = byId("environment");
  byId("previous").disabled = select.selectedIndex <= 0;
  byId("next").disabled = select.selectedIndex >= select.options.length - 1;
}

function fillEnvironments() {
  const policy = byId("right").value;
  byId("environment").replaceChildren(...shownEnvironments().map((item, index) => {
    const episode = (data.episodes[policy] || {})[item.id];
    const mark = episode ? ` (F1 ${score(episode.solve_f1)})` : "";
    return option(item.id, `${index + 1}. ${item.question.split("\n").pop().slice(0, 90)}${mark}`);
  }));
  show();
}

function step(by) {
  const select = byId("environment");
  const wanted = select.selectedIndex + by;
  if (wanted >= 0 && wanted < select.options.length) { select.selectedIndex = wanted; show(); }
}

if (data.environments.length && data.policies.length) {
  byId("viewer").hidden = false;
  document.querySelector("#trajectories .noscript").hidden = true;
  const shown = data.environments.length;
  byId("viewer-scope").textContent = `${shown} of ${data.of} test environments, first trial. Keys: Alt with left or right arrow steps through them.`;
  byId("scenario").append(option("", "all"), ...Object.keys(SCENARIOS).filter((name) => data.environments.some((item) => item.scenario === name)).map((name) => option(name, SCENARIOS[name])));
  const names = data.policies.map((policy) => policy.name);
  for (const side of ["left", "right"]) byId(side).append(...data.policies.map((policy) => option(policy.name, policy.label)));
  const trained = data.policies.find((policy) => policy.role === "trained" && names.includes(policy.start));
  byId("left").value = trained ? trained.start : names[0];
  byId("right").value = trained ? trained.name : names[names.length - 1];
  byId("scenario").addEventListener("change", fillEnvironments);
  for (const id of ["environment", "left", "right"]) byId(id).addEventListener("change", show);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("viewer").addEventListener("keydown", (event) => {
    if (event.altKey && (event.key === "ArrowLeft" || event.key === "ArrowRight")) { event.preventDefault(); step(event.key === "ArrowLeft" ? -1 : 1); }
  });
  fillEnvironments();
} else {
  document.querySelector("#trajectories .noscript").textContent = "This run has no evaluated test environments to show.";
}
