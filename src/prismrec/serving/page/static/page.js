/* What the page can do better with a script. Without it every form is sent as a whole, and nothing is missing. */
"use strict";

const said = document.getElementById("said");

function say(text) {
  said.textContent = text;
}

/* Forms that update the lists as soon as something changes: the same page is fetched, its parts are exchanged. */

let fetching = null;

function addressOf(form) {
  const given = [...new FormData(form)].filter(([, value]) => value !== "");
  const query = new URLSearchParams(given).toString();
  return form.action.split("?")[0] + (query ? `?${query}` : "");
}

function exchange(fresh) {
  const focused = document.activeElement;
  const [id, keeps] = [focused?.id, focused?.dataset?.keeps];
  for (const part of document.querySelectorAll("[data-part]")) {
    const next = fresh.getElementById(part.id);
    if (next && part.isConnected) part.replaceWith(next);
  }
  if (focused?.isConnected) return;
  const again = keeps
    ? [...document.querySelectorAll("[data-keeps]")].find((box) => box.dataset.keeps === keeps)
    : id && document.getElementById(id);
  if (again) again.focus({ preventScroll: true });
}

async function update(form) {
  fetching?.abort();
  const mine = (fetching = new AbortController());
  const address = addressOf(form);
  const busy = document.querySelectorAll("[data-part]");
  busy.forEach((part) => part.setAttribute("aria-busy", "true"));
  try {
    const answer = await fetch(address, { signal: mine.signal, headers: { Accept: "text/html" } });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (mine.signal.aborted) return;
    if (!fresh.querySelector("[data-part]")) {
      location.assign(address);
      return;
    }
    exchange(fresh);
    history.replaceState(null, "", address);
    say(document.querySelector("[data-part] [data-say]")?.textContent ?? "Updated.");
  } catch (error) {
    if (error.name !== "AbortError") say("The list could not be updated. Is the service running?");
  } finally {
    if (fetching === mine) busy.forEach((part) => part.removeAttribute("aria-busy"));
  }
}

for (const form of document.querySelectorAll("form[data-live]")) {
  let timer = 0;
  form.addEventListener("change", (event) => {
    if (form.dataset.live !== "typing" && event.target.name) update(form);
  });
  form.addEventListener("input", (event) => {
    if (event.target.type !== "search" || event.target.name === "user") return;
    clearTimeout(timer);
    timer = setTimeout(() => update(form), 250);
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    clearTimeout(timer);
    await update(form);
    const heading = document.getElementById(event.submitter?.dataset.to ?? "");
    if (heading) {
      heading.tabIndex = -1;
      heading.focus();
    }
  });
}

document.addEventListener("input", (event) => {
  const output = document.getElementById(event.target.dataset?.shows ?? "");
  if (output) output.value = Number(event.target.value).toFixed(2);
});

for (const select of document.querySelectorAll("select[data-submits]")) {
  select.addEventListener("change", () => select.form.submit());
}

/* One reason is open at a time, as they lie over one another. */

document.addEventListener("toggle", (event) => {
  if (!event.target.matches?.(".why") || !event.target.open) return;
  for (const other of document.querySelectorAll(".why[open]")) if (other !== event.target) other.open = false;
}, true);

document.addEventListener("keydown", (event) => {
  const open = event.key === "Escape" && document.querySelector(".why[open]");
  if (!open) return;
  open.open = false;
  open.querySelector("summary").focus();
});

document.addEventListener("click", (event) => {
  if (event.target.closest(".why")) return;
  for (const open of document.querySelectorAll(".why[open]")) open.open = false;
});

/* The chosen picture, before it is sent. */

for (const input of document.querySelectorAll("input[data-preview]")) {
  input.addEventListener("change", async () => {
    const canvas = document.getElementById(input.dataset.preview);
    canvas.hidden = true;
    if (!input.files.length) return;
    try {
      const picture = await createImageBitmap(input.files[0]);
      const scale = Math.min(1, 512 / Math.max(picture.width, picture.height));
      canvas.width = Math.max(1, Math.round(picture.width * scale));
      canvas.height = Math.max(1, Math.round(picture.height * scale));
      canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
      canvas.hidden = false;
    } catch {
      say("This file cannot be shown as a picture.");
    }
  });
}

/* The map. */

class CatalogueMap {
  constructor(figure, data) {
    this.figure = figure;
    this.data = data;
    this.canvas = figure.querySelector("canvas");
    this.tip = figure.querySelector(".tip");
    this.scale = 1;
    this.centre = [data.edge / 2, data.edge / 2];
    const range = (values) => values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
    this.span = [data.x, data.y].map((values) => Math.max(1, range(values)[1] - range(values)[0]));
    this.chosen = -1;
    this.only = null;
    figure.querySelector(".stage").hidden = false;
    this.listen();
    this.makeLegend();
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.resize();
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    const fine = window.devicePixelRatio || 1;
    [this.width, this.height] = [box.width, box.height];
    this.canvas.width = Math.round(box.width * fine);
    this.canvas.height = Math.round(box.height * fine);
    this.fine = fine;
    this.draw();
  }

  /* Pixels for one step of the coordinates: the same along both axes, as distances are what the map shows. */
  step() {
    const room = 28;
    const [wide, high] = this.span;
    return Math.min((this.width - 2 * room) / wide, (this.height - 2 * room) / high) * this.scale;
  }

  place(n) {
    const step = this.step();
    return [
      this.width / 2 + (this.data.x[n] - this.centre[0]) * step,
      this.height / 2 + (this.data.y[n] - this.centre[1]) * step,
    ];
  }

  isShown(n) {
    return this.only === null || this.data.group[n] === this.only;
  }

  draw() {
    const pen = this.canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const colours = this.data.colours.map((n) => style.getPropertyValue(`--c${n}`));
    const ink = style.getPropertyValue("--ink");
    const count = this.data.ids.length;
    const size = Math.min(9, Math.max(2, (count < 500 ? 5.5 : count < 4000 ? 4 : 2.6) * Math.sqrt(this.scale)));
    pen.setTransform(this.fine, 0, 0, this.fine, 0, 0);
    pen.clearRect(0, 0, this.width, this.height);
    for (const wanted of [0, 1]) {
      for (let n = 0; n < count; n++) {
        if (this.data.new[n] !== wanted) continue;
        pen.globalAlpha = this.isShown(n) ? 0.88 : 0.12;
        pen.fillStyle = colours[this.data.group[n]];
        this.shape(pen, ...this.place(n), size, wanted);
        pen.fill();
        if (wanted) {
          pen.strokeStyle = ink;
          pen.lineWidth = 1.5;
          pen.stroke();
        }
      }
    }
    pen.globalAlpha = 1;
    if (this.chosen >= 0) {
      const [x, y] = this.place(this.chosen);
      pen.beginPath();
      pen.arc(x, y, size + 6, 0, 7);
      pen.strokeStyle = ink;
      pen.lineWidth = 2.5;
      pen.stroke();
    }
  }

  shape(pen, x, y, size, diamond) {
    pen.beginPath();
    if (!diamond) {
      pen.arc(x, y, size, 0, 7);
      return;
    }
    const far = size * 1.5;
    pen.moveTo(x, y - far);
    pen.lineTo(x + far, y);
    pen.lineTo(x, y + far);
    pen.lineTo(x - far, y);
    pen.closePath();
  }

  /* The item nearest to a place, or the nearest one in a direction. */
  find(x, y, reach, direction = null) {
    let [best, least] = [-1, reach * reach];
    for (let n = 0; n < this.data.ids.length; n++) {
      if (n === this.chosen && direction) continue;
      if (!this.isShown(n)) continue;
      const [px, py] = this.place(n);
      let far = (px - x) ** 2 + (py - y) ** 2;
      if (direction) {
        const along = (px - x) * direction[0] + (py - y) * direction[1];
        const aside = Math.abs((px - x) * direction[1] - (py - y) * direction[0]);
        if (along <= 0 || aside > along) continue;
        far += 3 * aside * aside;
      }
      if (far < least) [best, least] = [n, far];
    }
    return best;
  }

  choose(n, aloud) {
    this.chosen = n;
    this.tip.hidden = n < 0;
    if (n >= 0) this.describe(n, aloud);
    this.draw();
  }

  describe(n, aloud) {
    const { ids, titles, groups, group, picture } = this.data;
    const name = document.createElement("span");
    const about = document.createElement("small");
    about.textContent = (groups.length > 1 ? `${groups[group[n]]}, ` : "") + (this.data.new[n] ? "new" : "known");
    name.append(titles[n], about);
    this.tip.href = `${this.figure.dataset.item}?id=${encodeURIComponent(ids[n])}`;
    this.tip.replaceChildren(name);
    if (picture[n]) {
      const image = document.createElement("img");
      image.src = `${this.figure.dataset.picture}?id=${encodeURIComponent(ids[n])}`;
      image.alt = `Picture of ${titles[n]}`;
      image.className = "cover";
      this.tip.prepend(image);
    }
    const [x, y] = this.place(n);
    const { offsetWidth: wide, offsetHeight: high } = this.tip;
    const left = x + wide + 20 < this.width ? x + 14 : x - wide - 14;
    const top = Math.min(Math.max(8, y - high / 2), Math.max(8, this.height - high - 8));
    this.tip.style.transform = `translate(${Math.max(8, left)}px, ${top}px)`;
    if (aloud) say(`${titles[n]}, ${about.textContent}`);
  }

  zoom(factor) {
    this.scale = factor ? Math.min(60, Math.max(1, this.scale * factor)) : 1;
    if (this.scale === 1) this.centre = [this.data.edge / 2, this.data.edge / 2];
    else if (this.chosen >= 0) this.centre = [this.data.x[this.chosen], this.data.y[this.chosen]];
    this.choose(this.chosen, false);
  }

  move(dx, dy) {
    const step = this.step();
    const inside = (value) => Math.min(this.data.edge, Math.max(0, value));
    this.centre = [inside(this.centre[0] - dx / step), inside(this.centre[1] - dy / step)];
    this.choose(-1, false);
  }

  keyed(event) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const direction = ways[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (direction) {
      const from = this.chosen >= 0 ? this.place(this.chosen) : [this.width / 2, this.height / 2];
      const next = this.find(...from, Infinity, this.chosen >= 0 ? direction : null);
      if (next >= 0) this.choose(next, true);
      else say("No item further that way.");
      this.follow();
    } else if (event.key === "Enter" && this.chosen >= 0) this.tip.click();
    else if (event.key === "Escape") this.choose(-1, false);
    else if (event.key === "+" || event.key === "=") this.zoom(1.6);
    else if (event.key === "-") this.zoom(1 / 1.6);
    else if (event.key === "0") this.zoom(0);
    else return;
    event.preventDefault();
  }

  /* Keep the chosen item in sight. */
  follow() {
    if (this.chosen < 0) return;
    const [x, y] = this.place(this.chosen);
    if (x > 0 && y > 0 && x < this.width && y < this.height) return;
    this.centre = [this.data.x[this.chosen], this.data.y[this.chosen]];
    this.choose(this.chosen, false);
  }

  listen() {
    let from = null;
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      from = at(event);
      this.dragged = false;
    });
    this.canvas.addEventListener("pointermove", (event) => {
      const here = at(event);
      if (from && event.buttons && this.scale > 1) {
        const [dx, dy] = [here[0] - from[0], here[1] - from[1]];
        if (!this.dragged && Math.hypot(dx, dy) < 5) return;
        this.dragged = true;
        from = here;
        this.move(dx, dy);
      } else if (event.pointerType === "mouse") {
        const near = this.find(...here, 16);
        if (near >= 0 && near !== this.chosen) this.choose(near, false);
      }
    });
    this.canvas.addEventListener("click", (event) => {
      from = null;
      if (this.dragged) return;
      const near = this.find(...at(event), 22);
      if (near >= 0 && near === this.chosen && event.detail && this.byMouse) this.tip.click();
      else this.choose(near, true);
    });
    this.canvas.addEventListener("pointerup", (event) => {
      from = null;
      this.byMouse = event.pointerType === "mouse";
    });
    this.canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 1.25 : 0.8);
    }, { passive: false });
    this.canvas.addEventListener("keydown", (event) => this.keyed(event));
    for (const button of this.figure.querySelectorAll("[data-zoom]")) {
      const factor = { in: 1.6, out: 1 / 1.6, all: 0 }[button.dataset.zoom];
      button.addEventListener("click", () => this.zoom(factor));
    }
  }

  /* Each group of the legend becomes a button that leaves only this group bright. */
  makeLegend() {
    for (const entry of this.figure.querySelectorAll("[data-group]")) {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      button.append(...entry.childNodes);
      entry.replaceChildren(button);
      button.addEventListener("click", () => {
        const group = Number(entry.dataset.group);
        this.only = this.only === group ? null : group;
        for (const other of this.figure.querySelectorAll("[data-group] button")) {
          other.setAttribute("aria-pressed", String(other === button && this.only !== null));
        }
        this.choose(-1, false);
      });
    }
  }
}

for (const figure of document.querySelectorAll("figure[data-map]")) {
  fetch(figure.dataset.map)
    .then((answer) => {
      if (!answer.ok) throw new Error(answer.statusText);
      return answer.json();
    })
    .then((data) => new CatalogueMap(figure, data))
    .catch(() => say("The map could not be drawn. The table has the same items."));
}
