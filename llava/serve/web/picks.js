// The patches that are picked, and how many. Events of the document carry them from and to the picture of the same pane.
function tell() {
  const picked = props.value ?? [];
  const all = picked.flat();
  const cls = all.filter((place) => place < 0).length;
  const patches = all.length - cls;
  const text = `${patches} ${patches === 1 ? "patch" : "patches"}${cls ? ` and ${cls > 1 ? `${cls} × ` : ""}CLS` : ""} picked`;
  element.querySelector(".picked").textContent = text;
}
document.addEventListener(`picks-${props.pane}`, (event) => { props.value = event.detail; tell(); });
watch("value", () => {
  tell();
  document.dispatchEvent(new CustomEvent(`picked-${props.pane}`, { detail: props.value ?? [] }));
});
tell();
