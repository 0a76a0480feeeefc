// Where a picture is dropped, pasted or chosen, and the examples. A picture is sent as text, never as a path.
const { examples, most } = props.value;
const root = element.querySelector(".picker");
root.innerHTML = `
  <button type="button" class="drop"><b>Send a picture</b><span>drop it here, paste it, or click</span></button>
  <input type="file" accept="image/*" hidden aria-label="picture">
  <div class="examples"></div>`;
const [drop, input] = [root.querySelector(".drop"), root.querySelector("input")];
const told = drop.querySelector("span");

function send(file) {
  if (!file) return;
  if (file.size > most) {
    told.textContent = `${file.name} has ${(file.size / 2 ** 20).toFixed(1)} MB; ${most / 2 ** 20} MB are the most`;
    return;
  }
  const reader = new FileReader();
  reader.onload = () => {
    told.textContent = file.name;
    trigger("upload", { data: reader.result, name: file.name });
  };
  reader.readAsDataURL(file);
}

drop.addEventListener("click", () => input.click());
input.addEventListener("change", () => { send(input.files[0]); input.value = ""; });
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") send(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
  if (file) send(file);
});
examples.forEach(({ name, picture }, number) => {
  const button = document.createElement("button");
  button.type = "button";
  button.title = name;
  button.append(Object.assign(new Image(), { src: picture, alt: name }));
  button.addEventListener("click", () => { told.textContent = name; trigger("upload", { example: number }); });
  root.querySelector(".examples").append(button);
});
