"use strict";
// The page shows all pictures without this script, which only adds a way to enlarge them.
const dialog = document.createElement("dialog");
dialog.setAttribute("aria-label", "Enlarged picture");
dialog.addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => dialog.replaceChildren());
document.body.append(dialog);

function enlarge(picture) {
  const copy = picture.cloneNode();
  const fitting = Math.min(
    (0.96 * innerWidth) / picture.naturalWidth, (0.96 * innerHeight) / picture.naturalHeight);
  // Large pictures scroll instead of shrinking; integer factors keep all pixels the same size.
  const scale = fitting < 2 ? Math.max(1, fitting) : Math.floor(fitting);
  copy.width = Math.round(scale * picture.naturalWidth);
  const close = document.createElement("button");
  close.textContent = "Close";
  dialog.replaceChildren(close, copy);
  dialog.showModal();
}

for (const picture of document.querySelectorAll("figure img")) {
  const button = document.createElement("button");
  button.type = "button";
  button.title = "Enlarge";
  button.setAttribute("aria-label", `Enlarge: ${picture.alt}`);
  picture.replaceWith(button);
  button.append(picture);
  button.addEventListener("click", () => enlarge(picture));
}

// Unfold everything for printing.
const folded = document.querySelectorAll("details:not([open])");
addEventListener("beforeprint", () => folded.forEach((details) => { details.open = true; }));
addEventListener("afterprint", () => folded.forEach((details) => { details.open = false; }));
