"use strict";
// Draws the kernels of each engine: blocks that unfold, one row a kernel, lines for the tensors between them.
(() => {
  const NS = "http://www.w3.org/2000/svg", WIDTH = 360, HEIGHT = 26, GAP = 8, LEFT = 190, LANE = 9, LANES = 16, TIMES = 150;
  const make = (name, attributes, parent, text) => {
    const element = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  };
  const short = (text, most) => text.length <= most ? text : text.slice(0, most / 2) + "…" + text.slice(text.length - most / 2);

  const draw = (figure) => {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const svg = figure.querySelector("svg"), about = figure.querySelector(".about"), search = figure.querySelector("input");
    const hits = figure.querySelector(".hits");
    const open = new Set(data.kernels.length <= 60 ? data.blocks.keys() : []);
    let chosen = null, found = new Set();
    const total = (first, last) => data.kernels.slice(first, last + 1).reduce((sum, kernel) => sum + (kernel.ms || 0), 0);
    const all = total(0, data.kernels.length - 1), timed = all > 0;
    const timeOf = (ms) => `${ms.toFixed(4)} ms, ${(100 * ms / all).toFixed(1)} %`;
    const width = LEFT + WIDTH + 12 + (timed ? TIMES : 0);
    const clock = (group, row, ms) => {
      if (!timed || ms === undefined || ms === null) return;
      const x = LEFT + WIDTH + 16;
      make("rect", { class: "time", x, y: row.y + HEIGHT - 5, width: Math.max(1, (TIMES - 12) * ms / all), height: 4 }, group);
      make("text", { x, y: row.y + 15 }, group, timeOf(ms));
    };

    const titleOf = (kernel) => kernel.nodes.length ? kernel.nodes.map((node) => node[0]).join(", ") : kernel.name;
    const rows = () => data.blocks.flatMap(([name, first, last], block) => {
      const head = first === last ? [] : [{ block, name, first, last }];
      if (first !== last && !open.has(block)) return head;
      const own = [];
      for (let kernel = first; kernel <= last; kernel++) own.push({ block, kernel, first: kernel, last: kernel });
      return head.concat(own);
    });

    const show = () => {
      svg.replaceChildren();
      const list = rows(), place = new Map();
      list.forEach((row, index) => {
        row.y = GAP + index * (HEIGHT + GAP);
        if (row.kernel !== undefined) place.set(row.kernel, row);
        else if (!open.has(row.block)) for (let each = row.first; each <= row.last; each++) place.set(each, row);
      });
      svg.setAttribute("viewBox", `0 0 ${width} ${list.length * (HEIGHT + GAP) + GAP}`);
      svg.setAttribute("width", width);
      const lines = make("g", { class: "edges" }, svg), seen = new Set(), lanes = [];
      for (const [from, to] of data.edges) {
        const one = place.get(from), other = place.get(to), key = `${one.y} ${other.y}`;
        if (one === other || seen.has(key)) continue;
        seen.add(key);
        const near = other.y - one.y === HEIGHT + GAP, touches = chosen !== null && (from === chosen || to === chosen);
        const kind = touches ? "edge chosen" : "edge";
        if (near) {
          make("path", { class: kind, d: `M${LEFT + 30} ${one.y + HEIGHT}V${other.y}` }, lines);
          continue;
        }
        let lane = lanes.findIndex((end) => end <= one.y);
        if (lane < 0) lane = lanes.length;
        lanes[lane] = other.y;
        const x = LEFT - 12 - (lane % LANES) * LANE, start = one.y + HEIGHT / 2 + 4, stop = other.y + HEIGHT / 2 - 4;
        make("path", { class: kind, d: `M${LEFT} ${start}H${x + 4}Q${x} ${start} ${x} ${start + 4}V${stop - 4}Q${x} ${stop} ${x + 4} ${stop}H${LEFT}` }, lines);
      }
      for (const row of list) {
        const group = make("g", { class: "row", tabindex: 0, role: "button" }, svg);
        if (row.kernel === undefined) {
          const counts = {};
          for (let each = row.first; each <= row.last; each++) counts[data.kernels[each].dtype] = (counts[data.kernels[each].dtype] || 0) + 1;
          const hit = [...found].some((each) => each >= row.first && each <= row.last);
          make("rect", { class: "block" + (hit ? " hit" : ""), x: LEFT - 8, y: row.y, width: WIDTH + 16, height: HEIGHT, rx: 4 }, group);
          let x = LEFT - 8;
          for (const [dtype, count] of Object.entries(counts)) {
            const part = (WIDTH + 16) * count / (row.last - row.first + 1);
            make("rect", { class: `bar dtype-${dtype}`, x, y: row.y + HEIGHT - 5, width: part, height: 5 }, group);
            x += part;
          }
          clock(group, row, total(row.first, row.last));
          make("text", { x: LEFT, y: row.y + 15 }, group, `${open.has(row.block) ? "▾" : "▸"} ${short(row.name, 34)}: ${row.last - row.first + 1} kernels`);
          group.addEventListener("click", () => { open.has(row.block) ? open.delete(row.block) : open.add(row.block); show(); });
        } else {
          const kernel = data.kernels[row.kernel];
          const kind = `kernel dtype-${kernel.dtype}` + (found.has(row.kernel) ? " hit" : "") + (kernel.wrong ? " wrong" : "") + (chosen === row.kernel ? " chosen" : "");
          make("rect", { class: kind, x: LEFT, y: row.y, width: WIDTH, height: HEIGHT, rx: 4 }, group);
          make("text", { x: LEFT + 8, y: row.y + 17 }, group, short(`${row.kernel} ${kernel.kind}  ${titleOf(kernel)}`, 46));
          make("title", {}, group, titleOf(kernel));
          clock(group, row, kernel.ms);
          group.addEventListener("click", () => { chosen = row.kernel; show(); describe(kernel, row.kernel); });
        }
        group.addEventListener("keydown", (event) => { if (event.key === "Enter") group.dispatchEvent(new Event("click")); });
      }
    };

    const describe = (kernel, number) => {
      about.replaceChildren();
      const add = (label, lines) => {
        if (!lines.length) return;
        const term = document.createElement("dt"), text = document.createElement("dd");
        term.textContent = label;
        text.textContent = lines.join("\n");
        about.append(term, text);
      };
      add("kernel", [`${number}: ${kernel.kind}`, kernel.name]);
      if (timed) add("time", [kernel.ms === null ? "not measured" : timeOf(kernel.ms)]);
      add("nodes", kernel.nodes.map(([name, op]) => op ? `${name} (${op})` : name));
      add("reads", kernel.reads);
      add("writes", kernel.writes);
    };

    search.addEventListener("input", () => {
      const wanted = search.value.trim().toLowerCase();
      found = new Set();
      if (wanted) data.kernels.forEach((kernel, number) => {
        const text = [kernel.name, kernel.kind, kernel.dtype, ...kernel.nodes.flat()].join(" ").toLowerCase();
        if (text.includes(wanted)) found.add(number);
      });
      if (found.size && found.size <= 50) data.blocks.forEach(([, first, last], block) => {
        if ([...found].some((each) => each >= first && each <= last)) open.add(block);
      });
      hits.textContent = wanted ? `${found.size} found` : "";
      show();
      const first = svg.querySelector(".hit");
      if (first) first.scrollIntoView({ block: "center" });
    });
    figure.querySelector(".fold").addEventListener("click", () => { open.clear(); show(); });
    figure.querySelector(".unfold").addEventListener("click", () => { data.blocks.forEach((_, block) => open.add(block)); show(); });
    show();
  };
  document.querySelectorAll(".kernels").forEach(draw);
})();
