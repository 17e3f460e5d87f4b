"use strict";
// The volume viewer: one image below, any layers above, one crosshair for all planes.
(function (review) {
  const heat = { R: [0, 0, 59, 183, 252, 252], G: [0, 0, 15, 55, 137, 253], B: [0, 4, 112, 121, 97, 191], A: [0, 0, 150, 200, 230, 255], I: [0, 12, 64, 128, 191, 255] };
  const PRESENCE = /^(reader|rival)\d+$|^draw$/;
  const flat = (r, g, b) => ({ R: [r, r], G: [g, g], B: [b, b], A: [0, 255], I: [0, 255] });

  function ramp(stops) {
    const at = (c) => [stops[0][c], ...stops.map((s) => s[c])];
    return { R: at(0), G: at(1), B: at(2), A: [0, 255, 255, 255], I: [0, 1, 128, 255] };
  }

  class Viewer {
    constructor(page) {
      this.page = page;
      this.images = new Map(); // id → NVImage, made when first shown
      this.buffers = new Map();
      this.on = new Set(page.overlays.filter((o) => o.on).map((o) => o.id));
      this.background = "";
      this.draw = 0;
      this.outline = false;
      this.opacity = 0.8;
      this.view = "multi";
      this.listeners = [];
    }

    async open(canvas) {
      const NV = window.niivue;
      this.nv = new NV.Niivue({
        dragAndDropEnabled: false, isRadiologicalConvention: true, multiplanarShowRender: 0, logLevel: "error",
        isNearestInterpolation: true, crosshairColor: [0.1, 0.75, 1, 0.8], crosshairWidth: 0.4, crosshairGap: 6,
        show3Dcrosshair: false, isOrientationTextVisible: true, fontColor: [0.1, 0.45, 0.9, 1], loadingText: "",
        clipPlaneHotKey: "", cycleClipPlaneHotKey: "", viewModeHotKey: "", isAntiAlias: false, multiplanarPadPixels: 4,
      });
      await this.nv.attachToCanvas(canvas, false);
      this.nv.addColormap("review_gray", { R: [0, 255], G: [0, 255], B: [0, 255], A: [255, 255], I: [0, 255] });
      this.nv.addColormap("review_inverted", { R: [255, 0], G: [255, 0], B: [255, 0], A: [255, 255], I: [0, 255] });
      this.nv.addColormap("review_tumor", ramp(this.page.palette));
      this.nv.addColormap("review_heat", heat);
      this.nv.addColormap("review_reader", flat(31, 155, 255));
      this.nv.addColormap("review_rival", flat(0, 200, 180));
      this.nv.addColormap("review_draw", flat(255, 63, 210));
      this.nv.onLocationChange = () => this.moved();
      const first = this.page.backgrounds.find((b) => b.id === "dwi_high") || this.page.backgrounds[0];
      this.draws = await review.Draws.open(this.page.draws);
      await this.show(first.id);
      this.setView(this.view);
      this.labels = review.volume(await review.unpack(this.page.labels));
      this.adc = review.volume(await this.buffer("adc"));
      this.probability = review.volume(await this.buffer("probability"));
    }

    async buffer(id) {
      if (!this.buffers.has(id)) {
        const row = this.page.backgrounds.find((b) => b.id === id) || this.page.overlays.find((o) => o.id === id);
        this.buffers.set(id, await review.unpack(row.nifti));
      }
      return this.buffers.get(id);
    }

    async image(id) {
      if (!this.images.has(id)) {
        let row = this.page.backgrounds.find((b) => b.id === id) || this.page.overlays.find((o) => o.id === id);
        let buffer;
        if (id === "draw") {
          row = { colors: "review_draw", window: [0, 1] };
          buffer = review.blank(await this.buffer("tumor"));
        } else {
          buffer = (await this.buffer(id)).slice(0);
        }
        const made = await window.niivue.NVImage.new(
          buffer, `${id}.nii`, row.colors, 1, null, row.window[0], row.window[1], true, 0.02, false, false, "", 0,
        );
        // Set again: the viewer takes its own window where most of a volume is 0.
        made.cal_min = row.window[0];
        made.cal_max = row.window[1];
        made.colorbarVisible = false;
        this.images.set(id, made);
      }
      return this.images.get(id);
    }

    // Two switches may overlap while a volume is unpacked: the last one is what is shown.
    async refresh() {
      const turn = (this.turn = (this.turn || 0) + 1);
      const order = this.page.overlays.map((o) => o.id).concat("draw");
      const shown = order.filter((id) => this.on.has(id) || id === "tumor");
      const below = await this.image(this.background);
      const above = [];
      for (const id of shown) {
        const image = await this.image(id);
        image.opacity = this.on.has(id) ? this.opacity : 0;
        above.push(image);
      }
      if (turn !== this.turn) return;
      for (const id of shown) if (PRESENCE.test(id)) this.fill(id);
      below.opacity = 1;
      this.nv.volumes = [below, ...above];
      this.nv.back = below;
      this.nv.overlays = above;
      this.nv.updateGLVolume();
      this.moved();
    }

    async show(id) {
      this.background = id;
      await this.refresh();
    }

    async toggle(id, on) {
      if (id === "draw" && !this.draws.count) return;
      const wanted = on === undefined ? !this.on.has(id) : on;
      if (wanted) this.on.add(id); else this.on.delete(id);
      await this.refresh();
    }

    async chooseDraw(draw) {
      const count = this.draws.count;
      if (!count) return;
      this.draw = ((draw % count) + count) % count;
      this.on.add("draw");
      await this.refresh();
    }

    async setOpacity(value) {
      this.opacity = value;
      await this.refresh();
    }

    setView(name) {
      this.view = name;
      this.nv.setSliceType({ axial: 0, coronal: 1, sagittal: 2, multi: 3 }[name]);
      this.moved();
    }

    // A presence layer as it is, or as its border within the axial slice: what lies under it stays visible.
    fill(id) {
      const target = this.images.get(id).img;
      if (id === "draw") this.draws.paint(this.draw, target);
      else target.set(review.volume(this.buffers.get(id)).data);
      if (!this.outline) return;
      const whole = target.slice();
      const [I, J] = this.page.shape;
      for (let n = 0; n < whole.length; n++) {
        if (!whole[n]) continue;
        const i = n % I, j = Math.floor(n / I) % J;
        const edge = i === 0 || j === 0 || i === I - 1 || j === J - 1;
        if (!edge && whole[n - 1] && whole[n + 1] && whole[n - I] && whole[n + I]) target[n] = 0;
      }
    }

    async setOutline(on) {
      this.outline = on;
      await this.refresh();
    }

    setSmooth(on) {
      this.nv.setInterpolation(!on);
    }

    // Turned voxel index under the crosshair.
    voxel() {
      const place = this.nv.frac2vox(this.nv.scene.crosshairPos);
      return [0, 1, 2].map((a) => Math.max(0, Math.min(this.page.shape[a] - 1, Math.round(place[a]))));
    }

    jump(voxel) {
      this.nv.scene.crosshairPos = this.nv.vox2frac(voxel);
      this.nv.drawScene();
      this.moved();
    }

    step(slices) {
      const place = this.voxel();
      place[2] = Math.max(0, Math.min(this.page.shape[2] - 1, place[2] + slices));
      this.jump(place);
    }

    at(place) {
      const [i, j, k] = place;
      const index = i + this.page.shape[0] * (j + this.page.shape[1] * k);
      const value = (v) => (v ? v.slope * v.data[index] + v.intercept : NaN);
      const mm = this.page.affine.slice(0, 3).map((row) => row[0] * i + row[1] * j + row[2] * k + row[3]);
      const lesion = this.labels ? this.labels.data[index] : 0;
      return { mm, adc: value(this.adc), probability: value(this.probability) / 255, lesion };
    }

    moved() {
      if (this.nv.volumes.length) for (const listener of this.listeners) listener(this.voxel());
    }
  }

  review.Viewer = Viewer;
})(window.review);
