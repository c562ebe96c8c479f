/** The API key: asked for when the service wants one, forgotten with the tab. */

const STORE = "mmray-key";
const dialog = document.getElementById("key-dialog");
const input = document.getElementById("key");
let asking = null;

export const currentKey = () => sessionStorage.getItem(STORE);

/** True when there is another key than the refused one; several refused calls share one dialog. */
export async function askForKey(refused) {
  if (!asking && currentKey() !== refused) return true;
  asking ??= ask(refused).finally(() => (asking = null));
  return asking;
}

function ask(refused) {
  document.getElementById("key-text").textContent = refused
    ? "The service does not accept that key. Is it complete?"
    : "Paste the key you were given. It stays in this tab and is forgotten when you close it.";
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(keep(dialog.returnValue)), { once: true });
  });
}

function keep(key) {
  if (!key) return false;
  sessionStorage.setItem(STORE, key);
  dispatchEvent(new Event("newkey")); // what was refused before can be asked again
  return true;
}

dialog.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  dialog.close(input.value.trim());
});
document.getElementById("key-cancel").addEventListener("click", () => dialog.close(""));
