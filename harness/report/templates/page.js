// A button beside each command that copies it: without it the page is complete.
for (const command of document.querySelectorAll("pre")) {
  const button = document.createElement("button");
  const text = command.textContent.trim();
  const label = done => { button.textContent = done ? "copied" : "copy"; };
  button.type = "button";
  button.className = "copy";
  label(false);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      getSelection().selectAllChildren(command.querySelector("code"));
      document.execCommand("copy");
    }
    label(true);
    setTimeout(label, 1500, false);
  });
  command.prepend(button);
}
