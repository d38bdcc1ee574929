/** Light or dark colours, as the system says or as was chosen. */

const THEME = "frostline.theme";

/** Have a button switch between light and dark colours; without a choice they are those of the system. */
export function theme(button) {
  const root = document.documentElement;
  const dark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const show = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`);
  };
  const kept = localStorage.getItem(THEME);
  if (kept) root.dataset.theme = kept;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    localStorage.setItem(THEME, root.dataset.theme);
    show();
  });
  show();
}
