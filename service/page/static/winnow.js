// Live updates, previews of selections and texts on demand. Without scripts every link and form still works.
"use strict";

// Replaces the content of an element with a part of a page from the server, to which a form may be posted.
async function fill(element, url, form) {
  const sent = form ? { method: "POST", body: new URLSearchParams(new FormData(form)) } : {};
  const answer = await fetch(url, { ...sent, headers: { Accept: "text/html" } });
  if (answer.redirected) signedOut();
  if (answer.headers.get("Content-Type") === "application/problem+json") throw new Error((await answer.json()).detail);
  const html = await answer.text();
  const page = new DOMParser().parseFromString(html, "text/html");
  const notice = answer.ok ? null : page.querySelector(".notice");
  const focused = element.contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
  element.replaceChildren(...(notice ? [notice] : page.body.childNodes));
  if (focused) element.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  wire(element);
  return answer;
}

// A part redirects only when the key is no longer valid: reloading the page leads to the sign-in form.
function signedOut() {
  location.reload();
  throw new Error("signed out");
}

// Lets screen readers read a text.
function announce(text) {
  const line = document.getElementById("announcement");
  if (line && text && line.textContent !== text) line.textContent = text;
}

// Runs one call at a time; of the calls made in the meantime only the latest is run afterwards.
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
  const preview = document.getElementById("preview");
  const slider = form.querySelector("#rate-slider"), rate = form.querySelector("#rate");
  const limits = [...form.querySelectorAll("#at_least, #at_most")];
  let announceTimer = 0;
  slider.hidden = false;
  const show = latest(async (query) => {
    preview.classList.add("old");
    preview.inert = true; // its buttons are of the selection before
    try {
      await fill(preview, `${form.dataset.part}&${query}`);
      const first = preview.querySelector("[data-at-least]"); // of thresholds, where none was given
      if (first && limits.every((limit) => !limit.value)) limits[0].value = first.dataset.atLeast;
      history.replaceState(null, "", `${form.getAttribute("action")}?${query}`);
    } catch (error) {
      const line = document.createElement("p");
      line.className = "wrong";
      line.textContent = `The service cannot be reached (${error.message}). Change an option to try again.`;
      announce(line.textContent);
      preview.replaceChildren(line); // instead of the numbers of the previous selection
    } finally {
      preview.classList.remove("old");
      preview.inert = false;
    }
    clearTimeout(announceTimer);
    announceTimer = setTimeout(() => announce(preview.querySelector("[data-announce]")?.textContent), 700);
  });
  form.addEventListener("input", (event) => {
    if (event.target.id === "score") limits.forEach((limit) => { limit.value = ""; });
    if (event.target === slider) rate.value = slider.value;
    if (event.target === rate) slider.value = rate.value;
    if (form.checkValidity() && Number(rate.value) > 0) show(new URLSearchParams(new FormData(form)).toString());
  });
  form.addEventListener("submit", (event) => event.preventDefault());
}

// The buttons that check the corpus show what was found in the form, instead of the form again.
function checkCorpus(form) {
  const place = form.querySelector("#check");
  const show = latest(async () => {
    if (place.childElementCount) place.classList.add("old");
    else place.textContent = "Checking …";
    const inside = place.contains(document.activeElement);
    try {
      await fill(place, "/new?part=check", form);
      announce(place.querySelector("[data-announce]")?.dataset.announce);
    } catch (error) {
      const line = document.createElement("p");
      line.className = "wrong";
      line.textContent = `The corpus cannot be checked (${error.message}).`;
      announce(line.textContent);
      place.replaceChildren(line);
    } finally { place.classList.remove("old"); }
    if (inside && document.activeElement === document.body) place.focus({ preventScroll: true }); // its button is gone
  });
  form.addEventListener("submit", (event) => {
    const button = event.submitter;
    if (!button?.hasAttribute("formaction")) return;
    event.preventDefault();
    if (button.name) document.getElementById(button.name).value = button.value;
    show();
  });
}

// The selection of a form as JSON, while it is filled in.
function showJson(form) {
  const place = form.querySelector("#composite-json");
  const show = latest(() => fill(place, form.dataset.json, form));
  form.addEventListener("input", () => show());
}

function follow(live) {
  let source = null, wait = 1000, shown = 0, timer = 0;
  const notice = document.createElement("p");
  notice.className = "lost";
  notice.hidden = true;
  live.before(notice);
  const setLost = (isLost) => {
    notice.hidden = !isLost;
    notice.textContent = isLost ? "The connection to the service is lost. Trying again …" : "";
    if (isLost) announce(notice.textContent);
  };
  const show = latest(async () => {
    shown = Date.now();
    const answer = await fill(live, live.dataset.part);
    if (answer.ok) announce(live.querySelector("[data-announce]")?.dataset.announce);
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
    const [status] = page.title.split(" ");
    announce(`The job ${status === "cancelled" ? "was" : "has"} ${status}.`);
  }
  function again() {
    setLost(true);
    source.close();
    setTimeout(open, wait);
    wait = Math.min(2 * wait, 15000);
  }
  function open() {
    source = new EventSource(live.dataset.events);
    source.addEventListener("progress", (event) => {
      wait = 1000;
      setLost(false);
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
  for (const form of root.querySelectorAll("#new-job")) checkCorpus(form);
  for (const form of root.querySelectorAll("#composite")) showJson(form);
  for (const live of root.querySelectorAll("[data-events]")) follow(live);
  for (const table of root.querySelectorAll("[data-refresh]")) {
    const timer = setInterval(latest(async () => {
      if (document.hidden || table.contains(document.activeElement)) return;
      const answer = await fill(table, table.dataset.refresh);
      const last = table.querySelector("[data-announce]"); // of an export that has ended
      announce(last?.dataset.announce);
      if (last || answer.status === 404) clearInterval(timer);
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
        text?.focus(); // which was on the link
      } catch (error) { link.textContent = `Scoring failed (${error.message}). Try again`; }
    });
  }
}

wire(document);
