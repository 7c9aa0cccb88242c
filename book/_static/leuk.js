// Escape closes a tooltip (WCAG 1.4.13); Bootstrap does not do this.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const link of document.querySelectorAll('[data-bs-toggle="tooltip"][aria-describedby]')) {
    for (const kind of ["mouseout", "focusout"]) link.dispatchEvent(new Event(kind, { bubbles: true }));
  }
});
