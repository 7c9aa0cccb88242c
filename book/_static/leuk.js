// Escape closes a tooltip that is in the way, as WCAG 1.4.13 asks for; Bootstrap itself does not.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const link of document.querySelectorAll('[data-bs-toggle="tooltip"][aria-describedby]')) {
    for (const kind of ["mouseout", "focusout"]) link.dispatchEvent(new Event(kind, { bubbles: true }));
  }
});
