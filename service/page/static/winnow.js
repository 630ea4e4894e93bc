// Live updates, the explorer and texts on demand. Without this file every link and form still does its work.
"use strict";

// Puts a part of a page, as the server made it, into an element.
async function fill(element, address, signal) {
  const answer = await fetch(address, { signal, headers: { Accept: "text/html" } });
  if (answer.redirected) signedOut();
  const html = await answer.text();
  const page = new DOMParser().parseFromString(html, "text/html");
  const found = answer.ok ? page.body : page.querySelector(".notice") || page.body;
  const held = element.contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
  element.replaceChildren(...found.childNodes);
  if (held) element.querySelector(`[aria-label="${CSS.escape(held)}"]`)?.focus({ preventScroll: true });
  wire(element);
  return answer;
}

// A part is only ever elsewhere for a visitor whose key is gone: the whole page then leads to the form that takes one.
function signedOut() {
  location.reload();
  throw new Error("signed out");
}

function say(text) {
  const place = document.getElementById("said");
  if (place && text && place.textContent !== text) place.textContent = text;
}

// One request at a time, and after it only the latest that was asked for meanwhile.
function latest(work) {
  let busy = false, next = null;
  return async function run(argument) {
    if (busy) { next = [argument]; return; }
    busy = true;
    try { await work(argument); } catch (error) { console.info(String(error)); }
    busy = false;
    if (next) { const [waiting] = next; next = null; run(waiting); }
  };
}

function explore(form) {
  const band = document.getElementById("band");
  const slider = form.querySelector("#rate-slider"), rate = form.querySelector("#rate");
  let quiet = 0;
  slider.hidden = false;
  const show = latest(async (query) => {
    band.classList.add("old");
    try {
      await fill(band, `${form.dataset.part}&${query}`);
      history.replaceState(null, "", `${form.getAttribute("action")}?${query}`);
    } catch (error) {
      const line = document.createElement("p");
      line.className = "wrong";
      line.textContent = `The service cannot be reached (${error.message}). Change something to try again.`;
      say(line.textContent);
      band.replaceChildren(line); // rather than the numbers of another selection
    } finally { band.classList.remove("old"); }
    clearTimeout(quiet);
    quiet = setTimeout(() => say(band.querySelector("[data-say]")?.textContent), 700);
  });
  form.addEventListener("input", (event) => {
    if (event.target === slider) rate.value = slider.value;
    if (event.target === rate) slider.value = rate.value;
    if (form.checkValidity() && Number(rate.value) > 0) show(new URLSearchParams(new FormData(form)).toString());
  });
  form.addEventListener("submit", (event) => event.preventDefault());
}

function follow(live) {
  let source = null, wait = 1000, shown = 0, timer = 0;
  const notice = document.createElement("p");
  notice.className = "lost";
  notice.hidden = true;
  live.before(notice);
  const lost = (is) => {
    notice.hidden = !is;
    notice.textContent = is ? "The connection to the service is lost. Trying again …" : "";
    if (is) say(notice.textContent);
  };
  const show = latest(async () => {
    shown = Date.now();
    const answer = await fill(live, live.dataset.part);
    if (answer.ok) say(live.querySelector("[data-say]")?.dataset.say);
  });
  async function ended() {
    source.close();
    const answer = await fetch(location.href);
    if (answer.redirected) signedOut();
    if (!answer.ok) throw new Error(answer.statusText);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.title = page.title;
    document.getElementById("main").replaceChildren(...page.getElementById("main").childNodes);
    wire(document.getElementById("main"));
    say(`The job has ${page.title.split(" ")[0]}.`);
  }
  function again() {
    lost(true);
    source.close();
    setTimeout(open, wait);
    wait = Math.min(2 * wait, 15000);
  }
  function open() {
    source = new EventSource(live.dataset.events);
    source.addEventListener("progress", (event) => {
      wait = 1000;
      lost(false);
      const job = JSON.parse(event.data);
      clearTimeout(timer);
      if (job.finished_at) ended().catch(again);
      else timer = setTimeout(show, Math.max(0, shown + 1500 - Date.now()));
    });
    source.addEventListener("error", again);
  }
  open();
}

function wire(root) {
  for (const form of root.querySelectorAll("#explorer")) explore(form);
  for (const live of root.querySelectorAll("[data-events]")) follow(live);
  for (const table of root.querySelectorAll("[data-refresh]")) {
    setInterval(latest(async () => {
      if (!document.hidden && !table.contains(document.activeElement)) await fill(table, table.dataset.refresh);
    }), 3000);
  }
  for (const details of root.querySelectorAll("details[data-fill]")) {
    details.addEventListener("toggle", () => {
      if (details.open && !details.dataset.filled) {
        details.dataset.filled = "yes";
        const inside = details.querySelector("div");
        inside.textContent = "Reading …";
        fill(inside, details.dataset.fill).catch((error) => {
          delete details.dataset.filled;
          inside.textContent = `The documents cannot be read now (${error.message}). Close and open to try again.`;
        });
      }
    });
  }
  for (const link of root.querySelectorAll("a[data-swap]")) {
    link.addEventListener("click", async (event) => {
      event.preventDefault();
      const article = link.closest("article"), inside = document.createElement("div");
      link.textContent = "Scoring …";
      try {
        await fill(inside, link.dataset.swap);
        const text = inside.querySelector(".text");
        article.replaceWith(...inside.childNodes);
        text?.focus(); // where the link was that had it
      } catch (error) { link.textContent = `Scoring failed (${error.message}). Try again`; }
    });
  }
}

wire(document);
