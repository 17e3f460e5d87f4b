"use strict";
// Packed volumes → typed arrays. Everything is little-endian NIfTI-1 as the site's own writer makes it.
window.review = (function () {
  const HEADER = 352;

  function bytes(text) {
    const raw = atob(text);
    const out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out;
  }

  async function unpack(text) {
    const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  // {data, slope, intercept}: values are slope * data + intercept; index i + I * (j + J * k).
  function volume(buffer) {
    const view = new DataView(buffer);
    const kinds = { 2: Uint8Array, 4: Int16Array, 512: Uint16Array };
    const kind = kinds[view.getInt16(70, true)];
    return { data: new kind(buffer, HEADER), slope: view.getFloat32(112, true), intercept: view.getFloat32(116, true) };
  }

  // A volume of 0 and 1 on the grid of `template` (a uint8 volume's buffer).
  function blank(template) {
    const copy = template.slice(0);
    new Uint8Array(copy, HEADER).fill(0);
    return copy;
  }

  class Draws {
    constructor(count, row, voxels, bits) {
      this.count = count;
      this.row = row;
      this.voxels = voxels;
      this.bits = bits;
    }

    static async open(packed) {
      const [voxels, bits] = await Promise.all([unpack(packed.voxels), unpack(packed.bits)]);
      return new Draws(packed.count, packed.row, new Uint32Array(voxels), new Uint8Array(bits));
    }

    has(draw, place) {
      return (this.bits[draw * this.row + (place >> 3)] >> (7 - (place & 7))) & 1;
    }

    // First and past-last place of the voxels of slice k: voxel indices rise, so a slice is one stretch.
    stretch(k, plane) {
      const find = (wanted) => {
        let low = 0, high = this.voxels.length;
        while (low < high) {
          const middle = (low + high) >> 1;
          if (this.voxels[middle] < wanted) low = middle + 1; else high = middle;
        }
        return low;
      };
      return [find(k * plane), find((k + 1) * plane)];
    }

    paint(draw, target) {
      target.fill(0);
      for (let n = 0; n < this.voxels.length; n++) if (this.has(draw, n)) target[this.voxels[n]] = 1;
    }
  }

  return { unpack, volume, blank, Draws };
})();
