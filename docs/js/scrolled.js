/* What is wider than the page, such as a table on a phone, can be reached and scrolled by keys. */
function reach() {
  for (const region of document.querySelectorAll(".md-typeset__scrollwrap, .formula > div, .md-typeset pre > code")) {
    if (region.scrollWidth > region.clientWidth) region.tabIndex = 0;
    else region.removeAttribute("tabindex");
  }
}

addEventListener("load", () => requestAnimationFrame(reach));
addEventListener("resize", reach);
