import type { Model, Param, ParamValue, ParamValues } from "rtcbridge";
import { make } from "./dom.ts";

/** Draws one control for each parameter that a model declares, and keeps them in step with the values. */
export class Controls {
  /** The values that the controls show. */
  values: ParamValues = {};
  readonly #wide: HTMLElement;
  readonly #narrow: HTMLElement;
  readonly #changed: (name: string, value: ParamValue) => void;
  readonly #setters = new Map<string, (value: ParamValue) => void>();
  #drawn = "";

  /** Choices are drawn in `wide`, with all else in `narrow`; without a choice everything is in `wide`. */
  constructor(wide: HTMLElement, narrow: HTMLElement, changed: (name: string, value: ParamValue) => void) {
    this.#wide = wide;
    this.#narrow = narrow;
    this.#changed = changed;
  }

  /** Draw `model`. The same declaration again changes nothing; values of parameters that it keeps are kept. */
  draw(model: Model): void {
    const declaration = JSON.stringify(model);
    if (declaration === this.#drawn) return;
    this.#drawn = declaration;
    const before = this.values;
    this.values = {};
    this.#setters.clear();
    const { params } = model;
    const isWide = ({ kind }: Param): boolean =>
      kind === "choice" || !params.some((param) => param.kind === "choice");
    const draw = (part: Param[]): HTMLElement[] => part.map((param) => this.#control(param));
    this.#wide.replaceChildren(...draw(params.filter(isWide)));
    this.#narrow.replaceChildren(...draw(params.filter((param) => !isWide(param))));
    for (const { name, default: value } of params) this.#show(name, before[name] ?? value);
    if (!params.length) this.#wide.append(make("p", { className: "help" }, "This model has nothing to set."));
  }

  /** Show values that the node says are in force. */
  show(values: ParamValues): void {
    for (const [name, value] of Object.entries(values)) this.#show(name, value);
  }

  #show(name: string, value: ParamValue): void {
    const set = this.#setters.get(name);
    if (!set) return;
    this.values[name] = value;
    set(value);
  }

  #change(name: string, value: ParamValue): void {
    this.values[name] = value;
    this.#changed(name, value);
  }

  #control(param: Param): HTMLElement {
    switch (param.kind) {
      case "choice":
        return this.#choice(param);
      case "bool":
        return this.#switch(param);
      case "text":
        return this.#text(param);
      case "float":
      case "int":
        return this.#number(param);
    }
  }

  #choice(param: Param): HTMLElement {
    const groups = new Map<string, HTMLElement[]>();
    const inputs: HTMLInputElement[] = [];
    for (const { value, title, group = "" } of param.choices ?? []) {
      const input = make("input", { type: "radio", name: `param-${param.name}`, value });
      input.addEventListener("change", () => this.#change(param.name, value));
      inputs.push(input);
      const chip = make("label", { className: "chip", "data-value": value }, input, make("span", {}, title));
      groups.set(group, [...(groups.get(group) ?? []), chip]);
    }
    this.#setters.set(param.name, (value) => {
      for (const input of inputs) input.checked = input.value === value;
      const chip = inputs.find((input) => input.checked)?.parentElement;
      if (chip) reveal(chip);
    });
    const rows = [...groups].map(([group, chips]) => {
      const row = make("div", { className: "chips" }, ...chips);
      if (!group) return row;
      return make(
        "div",
        { className: "group", role: "group", "aria-label": group },
        make("h3", {}, group),
        row,
      );
    });
    return make(
      "fieldset",
      { className: "param choice", "data-testid": `param-${param.name}` },
      make("legend", {}, param.title),
      ...help(param),
      make("div", { className: "groups" }, ...rows),
    );
  }

  #number(param: Param): HTMLElement {
    const { min = 0, max = param.kind === "int" ? 100 : 1 } = param;
    const step = param.step ?? (param.kind === "int" ? 1 : (max - min) / 100);
    const id = `control-${param.name}`;
    const input = make("input", { id, type: "range", min, max, step, "data-testid": `param-${param.name}` });
    const output = make("output", { for: id });
    const digits = param.kind === "int" ? 0 : Math.min(4, Math.max(0, Math.ceil(-Math.log10(step))));
    const show = (): void => {
      output.value = Number(input.value).toFixed(digits);
      input.style.setProperty("--part", String((Number(input.value) - min) / (max - min || 1)));
    };
    input.addEventListener("input", () => {
      show();
      this.#change(param.name, Number(input.value));
    });
    this.#setters.set(param.name, (value) => {
      // What the hand holds is not moved under it by an acknowledgement of an older value.
      if (input.matches(":active")) return;
      input.value = String(value);
      show();
    });
    const label = make("label", { for: id }, param.title);
    return make("div", { className: "param number" }, label, output, input, ...help(param));
  }

  #switch(param: Param): HTMLElement {
    const input = make("input", { type: "checkbox", role: "switch", "data-testid": `param-${param.name}` });
    input.addEventListener("change", () => this.#change(param.name, input.checked));
    this.#setters.set(param.name, (value) => (input.checked = Boolean(value)));
    const label = make("label", {}, make("span", {}, param.title), input);
    return make("div", { className: "param switch" }, label, ...help(param));
  }

  #text(param: Param): HTMLElement {
    const id = `control-${param.name}`;
    const input = make("input", { id, type: "text", maxLength: 2000, "data-testid": `param-${param.name}` });
    input.addEventListener("input", () => this.#change(param.name, input.value));
    this.#setters.set(param.name, (value) => {
      if (document.activeElement !== input) input.value = String(value);
    });
    const label = make("label", { for: id }, param.title);
    return make("div", { className: "param text" }, label, input, ...help(param));
  }
}

/** Bring a chip into view in a row that scrolls sideways, without moving the page. */
function reveal(chip: HTMLElement): void {
  const row = chip.closest<HTMLElement>(".group") ?? chip.parentElement;
  if (!row || row.scrollWidth <= row.clientWidth) return;
  const at = chip.getBoundingClientRect();
  const view = row.getBoundingClientRect();
  if (at.left >= view.left && at.right <= view.right) return;
  row.scrollLeft += at.left - view.left - (view.width - at.width) / 2;
}

function help(param: Param): HTMLElement[] {
  return param.help ? [make("p", { className: "help" }, param.help)] : [];
}
