// Draw every plot from the figure that stands in its box. A wide plot shrinks on a narrow page.
for (const box of document.querySelectorAll(".plot")) {
  const { data, layout } = JSON.parse(box.querySelector("script").textContent);
  if (layout.width > box.clientWidth) layout.width = Math.min(layout.width, Math.max(box.clientWidth, 640));
  box.replaceChildren();
  Plotly.newPlot(box, data, layout, { displaylogo: false, displayModeBar: false });
}
