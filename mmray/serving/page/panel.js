/** A part of the page that shows the answers to one kind of call, and what went wrong with it. */

import { Problem } from "./api.js";

export class Panel {
  #alert;
  #output;
  #running = null;

  /** `root` has an alert and, where something can be busy, an output. */
  constructor(root) {
    this.#alert = root.querySelector(":scope > [role=alert]");
    this.#output = root.querySelector(":scope > .output") ?? root;
  }

  /** Runs a task with {signal, notice}; a newer one aborts it. */
  async run(task) {
    this.stop();
    const running = (this.#running = new AbortController());
    const { signal } = running;
    const notice = (text) => signal.aborted || this.say(text, "notice");
    this.#output.ariaBusy = "true";
    try {
      await task({ signal, notice });
    } catch (error) {
      if (!signal.aborted) this.fail(error);
    } finally {
      if (this.#running === running) this.#output.ariaBusy = "false";
    }
  }

  stop() {
    this.#running?.abort();
    this.#output.ariaBusy = "false";
    this.say("");
  }

  say(text, kind = "error") {
    this.#alert.textContent = text;
    this.#alert.dataset.kind = kind;
  }

  fail(error) {
    if (error instanceof Problem) return this.say(error.message);
    console.error(error);
    this.say("The page made a mistake. Loading it again may help.");
  }
}
