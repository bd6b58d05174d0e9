// The picture of the form: chosen, dropped anywhere on the page, or pasted.

import { isImage } from "./link.js";

const SMALL = 128;

/** `changed()` after every change; `refused(words)` where a file is no picture that can be scored. */
export class Picture {
  /** Largest file in bytes; the teacher says it. */
  limit = Infinity;
  url = "";

  constructor({ changed, refused }) {
    const by = (id) => document.getElementById(id);
    Object.assign(this, { changed, refused, input: by("file"), preview: by("preview"), invitation: by("invitation") });
    Object.assign(this, { note: by("picture-note"), removing: by("remove"), drop: by("drop") });
    this.idle = this.note.textContent;
    this.input.addEventListener("change", () => this.take(this.input.files));
    this.removing.addEventListener("click", () => {
      this.show("");
      this.input.focus();
      this.changed();
    });
    this.preview.addEventListener("load", () => this.describe());
    this.preview.addEventListener("error", () => this.url && this.refuse("The file is damaged, or no picture."));
    this.listen();
  }

  listen() {
    const carries = (event) => event.dataTransfer?.types.includes("Files");
    for (const name of ["dragover", "drop", "dragleave"]) {
      document.addEventListener(name, (event) => {
        if (!carries(event)) return;
        event.preventDefault();
        this.drop.classList.toggle("over", name === "dragover");
        if (name === "drop") this.take(event.dataTransfer.files);
      });
    }
    document.addEventListener("paste", (event) => {
      if (!event.clipboardData?.files.length) return;
      event.preventDefault();
      this.take(event.clipboardData.files);
    });
  }

  take(files) {
    const file = files[0];
    this.input.value = "";
    if (!file) return;
    const kind = file.type.replace("image/", "").toUpperCase() || "unknown";
    if (!["PNG", "JPEG", "WEBP"].includes(kind)) return this.refuse(`${file.name || "This"} is of the kind ${kind}. Give a PNG, JPEG or WebP file.`);
    if (file.size > this.limit) return this.refuse(`${file.name} has ${bytes(file.size)}; the teacher takes ${bytes(this.limit)}. Give a smaller one.`);
    const reader = new FileReader();
    reader.addEventListener("load", () => {
      this.show(reader.result);
      this.changed();
    });
    reader.addEventListener("error", () => this.refuse("The file can't be read."));
    reader.readAsDataURL(file);
  }

  refuse(words) {
    this.show("");
    this.changed();
    this.refused(words);
  }

  /** Show a picture by its data address; "" takes it away. */
  show(url) {
    this.url = isImage(url) ? url : "";
    this.preview.hidden = this.removing.hidden = !this.url;
    this.invitation.hidden = Boolean(this.url);
    this.note.textContent = this.idle;
    if (this.url) this.preview.src = this.url;
    else this.preview.removeAttribute("src");
  }

  describe() {
    const { naturalWidth: width, naturalHeight: height } = this.preview;
    this.preview.classList.toggle("small", Math.max(width, height) <= SMALL);
    const size = bytes(Math.floor(((this.url.length - this.url.indexOf(",") - 1) * 3) / 4));
    this.note.textContent = `${width} × ${height} pixels, ${size}`;
  }
}

function bytes(count) {
  if (count < 1000) return `${count} bytes`;
  return count < 1_000_000 ? `${Math.round(count / 1000)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}
