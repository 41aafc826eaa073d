// Let the keyboard reach every box that is wider than its place, so that it can scroll the box.
function mark() {
  for (const box of document.querySelectorAll("pre, table, .math, .output, .panel > div")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
addEventListener("load", mark);
addEventListener("resize", mark);
