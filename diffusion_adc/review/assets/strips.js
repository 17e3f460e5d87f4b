"use strict";
// The strip of draws at the crosshair's slice, and the two rotating projections.
(function (review) {
  class Strip {
    constructor(page, viewer, root) {
      this.page = page;
      this.viewer = viewer;
      this.buttons = Array.from(root.querySelectorAll("button[data-draw]"));
      this.shown = -1;
      const [I, J] = page.shape;
      for (const button of this.buttons) {
        const canvas = button.querySelector("canvas");
        canvas.width = I;
        canvas.height = J;
        canvas.style.aspectRatio = `${I * page.spacing[0]} / ${J * page.spacing[1]}`;
        button.addEventListener("click", () => viewer.chooseDraw(Number(button.dataset.draw)));
      }
    }

    async open() {
      const row = this.page.backgrounds.find((b) => b.id === "dwi_high") || this.page.backgrounds.find((b) => b.id === "dwi_low");
      this.gray = review.volume(await this.viewer.buffer(row.id));
      this.top = row.window[1];
      this.paint(this.viewer.voxel()[2]);
    }

    mark() {
      for (const button of this.buttons) {
        const chosen = this.viewer.on.has("draw") && Number(button.dataset.draw) === this.viewer.draw;
        button.setAttribute("aria-pressed", String(chosen));
        // Within the strip alone: scrollIntoView would move the whole page away from the viewer.
        if (chosen) button.parentElement.scrollLeft = button.offsetLeft - button.parentElement.offsetLeft - 40;
      }
    }

    paint(k) {
      if (!this.gray || k === this.shown) return;
      this.shown = k;
      const [I, J] = this.page.shape;
      const plane = I * J;
      const ground = new Uint8ClampedArray(plane);
      for (let n = 0; n < plane; n++) {
        const value = this.gray.slope * this.gray.data[k * plane + n] + this.gray.intercept;
        ground[n] = 255 - (255 * value) / this.top;
      }
      const [first, last] = this.viewer.draws.stretch(k, plane);
      for (const button of this.buttons) {
        const canvas = button.querySelector("canvas");
        const context = canvas.getContext("2d");
        const picture = context.createImageData(I, J);
        const place = (n) => 4 * ((J - 1 - Math.floor(n / I)) * I + (I - 1 - (n % I))); // right on the left, front up
        for (let n = 0; n < plane; n++) {
          const at = place(n);
          picture.data[at] = picture.data[at + 1] = picture.data[at + 2] = ground[n];
          picture.data[at + 3] = 255;
        }
        for (let n = first; n < last; n++) {
          if (!this.viewer.draws.has(Number(button.dataset.draw), n)) continue;
          picture.data.set([255, 30, 190, 255], place(this.viewer.draws.voxels[n] - k * plane));
        }
        context.putImageData(picture, 0, 0);
      }
    }
  }

  class Projections {
    constructor(mip, words) {
      this.mip = mip;
      this.words = words;
      this.angle = 0;
      this.button = document.getElementById("mip-play");
      this.slider = document.getElementById("mip-angle");
      this.degrees = document.getElementById("mip-degrees");
      this.panels = ["dwi", "tumor"].map((name) => {
        const canvas = document.getElementById(`mip-${name}`);
        canvas.width = mip.width;
        canvas.height = mip.height;
        const sheet = new Image();
        sheet.src = mip[name];
        return { canvas, sheet };
      });
      this.slider.addEventListener("input", () => { this.stop(); this.turn(Number(this.slider.value)); });
      this.button.addEventListener("click", () => this.toggle());
    }

    async open() {
      await Promise.all(this.panels.map((panel) => panel.sheet.decode()));
      this.turn(0);
    }

    turn(angle) {
      this.angle = ((angle % 360) + 360) % 360;
      const behind = this.angle >= 180; // seen from behind a maximum is its mirror image
      const frame = Math.round((this.angle % 180) / this.mip.step) % this.mip.frames;
      const x = (frame % this.mip.columns) * this.mip.width;
      const y = Math.floor(frame / this.mip.columns) * this.mip.height;
      for (const { canvas, sheet } of this.panels) {
        const context = canvas.getContext("2d");
        context.setTransform(behind ? -1 : 1, 0, 0, 1, behind ? this.mip.width : 0, 0);
        context.drawImage(sheet, x, y, this.mip.width, this.mip.height, 0, 0, this.mip.width, this.mip.height);
      }
      this.slider.value = String(this.angle);
      this.degrees.textContent = `${this.angle}°`;
    }

    toggle() {
      if (this.timer) this.stop(); else this.play();
    }

    play() {
      this.timer = window.setInterval(() => this.turn(this.angle + this.mip.step), 80);
      this.button.textContent = this.words.pause;
    }

    stop() {
      window.clearInterval(this.timer);
      this.timer = 0;
      this.button.textContent = this.words.play;
    }
  }

  Object.assign(review, { Strip, Projections });
})(window.review);
