// The newest `size` of what came; all that this page keeps is kept in one (static/ring.js).

export class Ring {
  #items = [];
  #first = 0;

  constructor(size) {
    this.size = size;
  }

  get length() {
    return this.#items.length;
  }

  push(item) {
    if (this.#items.length < this.size) {
      this.#items.push(item);
    } else {
      this.#items[this.#first] = item;
      this.#first = (this.#first + 1) % this.size;
    }
  }

  /** By age: `at(0)` is the oldest, `at(-1)` the newest. */
  at(i) {
    const n = this.#items.length;
    return n ? this.#items[(this.#first + (i < 0 ? n + i : i)) % n] : undefined;
  }

  /** The newest `n`, newest first. */
  newest(n) {
    return Array.from({ length: Math.min(n, this.length) }, (_, i) => this.at(-1 - i));
  }

  clear() {
    this.#items = [];
    this.#first = 0;
  }

  *[Symbol.iterator]() {
    for (let i = 0; i < this.length; i++) yield this.at(i);
  }
}
