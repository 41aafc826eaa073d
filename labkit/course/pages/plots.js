// Draw every plot from the figure that stands in its box.
for (const box of document.querySelectorAll(".plot")) {
  const { data, layout } = JSON.parse(box.querySelector("script").textContent);
  box.replaceChildren();
  Plotly.newPlot(box, data, layout, { displaylogo: false, displayModeBar: false });
}
