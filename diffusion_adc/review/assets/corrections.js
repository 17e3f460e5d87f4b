"use strict";
// Keep, remove or unsure per lesion, with a comment; saved as a file, kept nowhere else.
(function (review) {
  const SCHEMA = "diffusion-adc/corrections/1";
  const DECISIONS = ["keep", "remove", "unsure"];

  class Corrections {
    constructor(page, table) {
      this.page = page;
      this.table = table;
      this.dirty = false;
      if (!table) return;
      table.addEventListener("input", () => { this.dirty = true; this.count(); });
      document.getElementById("keep-rest").addEventListener("click", () => this.keepRest());
      document.getElementById("save").addEventListener("click", () => this.save());
      document.getElementById("open").addEventListener("change", (event) => this.open(event.target));
      window.addEventListener("beforeunload", (event) => { if (this.dirty) event.preventDefault(); });
      this.count();
    }

    row(number) {
      return this.table.querySelector(`tr[data-lesion="${number}"]`);
    }

    decision(number) {
      const chosen = this.row(number).querySelector("input[type=radio]:checked");
      return chosen ? chosen.value : null;
    }

    decide(number, decision) {
      if (!this.table || !DECISIONS.includes(decision)) return;
      this.row(number).querySelector(`input[value="${decision}"]`).checked = true;
      this.dirty = true;
      this.count();
    }

    keepRest() {
      for (const { lesion } of this.page.lesions) if (!this.decision(lesion)) this.decide(lesion, "keep");
    }

    count() {
      let done = 0;
      for (const { lesion } of this.page.lesions) {
        const decision = this.decision(lesion);
        this.row(lesion).dataset.decision = decision || "";
        if (decision) done += 1;
      }
      document.getElementById("decided").textContent = `${done} / ${this.page.lesions.length} ${this.page.words.decided}`;
    }

    record() {
      const { case_id, tumor_adc_sha256, ...source } = this.page.source;
      const lesions = this.page.lesions.map(({ lesion, seed, voxels }) => ({
        lesion, seed, voxels, decision: this.decision(lesion),
        comment: this.row(lesion).querySelector("input[type=text]").value,
      }));
      return { schema: SCHEMA, ...source, cases: [{ case_id, tumor_adc_sha256, lesions }] };
    }

    save() {
      const blob = new Blob([JSON.stringify(this.record(), null, 2) + "\n"], { type: "application/json" });
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = `corrections_${this.page.case}.json`;
      link.click();
      window.setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      this.dirty = false;
    }

    async open(input) {
      const note = document.getElementById("decided");
      try {
        const record = JSON.parse(await input.files[0].text());
        const mine = record.cases.find((c) => c.case_id === this.page.source.case_id);
        if (record.schema !== SCHEMA || mine.tumor_adc_sha256 !== this.page.source.tumor_adc_sha256) throw new Error();
        for (const row of mine.lesions) {
          if (!this.page.lesions.some((l) => l.lesion === row.lesion)) throw new Error();
          for (const radio of this.row(row.lesion).querySelectorAll("input[type=radio]")) radio.checked = radio.value === row.decision;
          this.row(row.lesion).querySelector("input[type=text]").value = String(row.comment || "").slice(0, 500);
        }
        this.dirty = false;
        this.count();
      } catch (error) {
        note.textContent = this.page.words.open_refused;
      }
      input.value = "";
    }
  }

  review.Corrections = Corrections;
})(window.review);
