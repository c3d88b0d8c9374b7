// The token: pasted, or given after the `#` of the address, which no server sees (static/token.js).
//
// It lives in this tab's session storage. From the address it is taken away before anything else happens.

const KEY = "symphony.token";
const FORM = /^sym_[0-9a-f]{12}_[0-9a-f]{64}$/;

/** The token of the address or of an earlier look; null: there is none. */
export function found() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given !== null) {
    history.replaceState(null, "", location.pathname + location.search);
    if (FORM.test(given)) keep(given);
  }
  return sessionStorage.getItem(KEY);
}

/** What is wrong with it; "" when it looks like one. */
export const fault = (text) => (FORM.test(text) ? "" : "A token looks like sym_ with 12 and 64 letters and digits after it: this is none, or not all of it.");

export const keep = (token) => sessionStorage.setItem(KEY, token);

export const forget = () => sessionStorage.removeItem(KEY);
