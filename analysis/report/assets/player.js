// All videos of a prompt in step. One of them leads; whoever is off is corrected, and when they
// stand still all show the same frame: the middle of its time is sought, so that no rounding matters.
"use strict";

(() => {
  const HARD = 1.2; // frames off, from where a video jumps to its place instead of hurrying
  const SOFT = 0.3; // the most that a video's speed may differ to come back into step

  class Tile {
    constructor(element, fps) {
      this.element = element;
      this.video = element.querySelector("video");
      this.fps = fps;
      this.last = Number(element.dataset.frames) - 1;
      this.wanted = null;
      if (!this.video) return;
      this.video.controls = false;
      this.video.addEventListener("seeked", () => this.sought());
      this.video.addEventListener("error", () => this.broke());
    }

    get plays() {
      return Boolean(this.video) && !this.element.hidden && !this.element.dataset.broken;
    }

    time(frame) {
      return (Math.min(frame, this.last) + 0.5) / this.fps;
    }

    // One seek at a time; the newest wish is served when it is done.
    seek(frame) {
      this.wanted = this.time(frame);
      if (!this.video.seeking) this.video.currentTime = this.wanted;
    }

    sought() {
      if (this.wanted === null) return;
      if (Math.abs(this.video.currentTime - this.wanted) < 1e-3) this.wanted = null;
      else this.video.currentTime = this.wanted;
    }

    broke() {
      this.element.dataset.broken = "1";
      this.element.querySelector("[data-broken]").hidden = false;
    }

    // Stands at its frame and can go on.
    ready() {
      const { video } = this;
      return new Promise((done) => {
        const look = () => {
          const there = this.wanted === null && !video.seeking && video.readyState >= 3;
          if (there || !this.plays) done();
          else setTimeout(look, 15);
        };
        look();
      });
    }

    // Comes back into step with the leader's time.
    follow(now, speed) {
      const { video } = this;
      const off = (video.currentTime - Math.min(now, this.time(this.last))) * this.fps;
      if (video.seeking) return;
      if (Math.abs(off) > HARD) {
        video.currentTime = now;
      } else {
        const rate = speed * (1 - Math.max(-SOFT, Math.min(SOFT, off / 2)));
        if (Math.abs(rate - video.playbackRate) > 0.02 * speed) video.playbackRate = rate;
      }
    }
  }

  class Player {
    constructor(root) {
      this.root = root;
      this.fps = Number(root.dataset.fps);
      this.last = Number(root.dataset.frames) - 1;
      this.tiles = [...root.querySelectorAll(".tile")].map((each) => new Tile(each, this.fps));
      this.frame = 0;
      this.playing = false;
      this.turn = 0; // a later command makes an earlier one stop
      this.part = (name) => root.querySelector(`[data-part="${name}"]`);
      this.listen();
      this.choose();
      this.show(0);
    }

    get shown() {
      return this.tiles.filter((tile) => tile.plays);
    }

    get speed() {
      return Number(this.part("speed").value);
    }

    show(frame) {
      this.frame = Math.max(0, Math.min(this.last, frame));
      for (const tile of this.shown) tile.seek(this.frame);
      this.say();
    }

    say() {
      this.part("scrub").value = this.frame;
      const seconds = (this.frame / this.fps).toFixed(2);
      this.part("said").textContent = `frame ${this.frame + 1} of ${this.last + 1} · ${seconds} s`;
      this.part("scrub").setAttribute("aria-valuetext", this.part("said").textContent);
      this.part("play").textContent = this.playing ? "Pause" : "Play";
    }

    async play() {
      const turn = ++this.turn;
      this.playing = true;
      for (const tile of this.tiles) tile.video?.pause(); // what plays on is never where it was sought
      this.show(this.frame >= this.last ? 0 : this.frame);
      await Promise.all(this.shown.map((tile) => tile.ready()));
      if (turn !== this.turn) return;
      for (const { video } of this.shown) video.playbackRate = this.speed;
      await Promise.allSettled(this.shown.map((tile) => tile.video.play()));
      if (turn === this.turn) this.tick(turn);
    }

    pause() {
      this.turn += 1;
      this.playing = false;
      for (const tile of this.tiles) tile.video?.pause();
      this.show(this.frame);
    }

    tick(turn) {
      if (turn !== this.turn) return;
      const [leader, ...others] = this.shown.sort((a, b) => b.last - a.last);
      if (!leader) return this.pause();
      const now = leader.video.currentTime;
      this.frame = Math.max(0, Math.min(this.last, Math.floor(now * this.fps)));
      if (leader.video.playbackRate !== this.speed) leader.video.playbackRate = this.speed;
      for (const tile of others) tile.follow(now, this.speed);
      this.say();
      if (this.frame >= this.last || leader.video.ended) this.end();
      else requestAnimationFrame(() => this.tick(turn));
    }

    end() {
      this.frame = this.last;
      this.pause();
      if (this.part("loop").checked) this.play();
    }

    toggle() {
      if (this.playing) this.pause();
      else this.play();
    }

    // A step or a scrub ends playing: who asks for a frame wants to see it.
    go(frame) {
      if (this.playing) this.pause();
      this.show(frame);
    }

    listen() {
      const on = (name, event, act) => this.part(name).addEventListener(event, act);
      on("play", "click", () => this.toggle());
      on("first", "click", () => this.go(0));
      on("back", "click", () => this.go(this.frame - 1));
      on("forward", "click", () => this.go(this.frame + 1));
      on("end", "click", () => this.go(this.last));
      on("scrub", "input", (event) => this.go(Number(event.target.value)));
      on("width", "input", (event) => {
        this.root.style.setProperty("--tile", `${event.target.value}px`);
      });
      document.addEventListener("keydown", (event) => this.key(event));
      document.addEventListener("visibilitychange", () => {
        if (document.hidden && this.playing) this.pause();
      });
      if (window.matchMedia("(prefers-reduced-motion: reduce)").matches) {
        this.part("loop").checked = false;
      }
    }

    // What an element does with a key by itself stays its own.
    key(event) {
      const { target } = event;
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const own = target.closest?.("button, summary, select, a, input:not([type=range])");
      const second = Math.round(this.fps);
      const acts = {
        ArrowLeft: () => this.go(this.frame - (event.shiftKey ? second : 1)),
        ArrowRight: () => this.go(this.frame + (event.shiftKey ? second : 1)),
        Home: () => this.go(0),
        End: () => this.go(this.last),
        " ": () => this.toggle(),
      };
      if (!(event.key in acts) || target === this.part("width")) return;
      if (own && (event.key === " " || target.matches("select"))) return;
      event.preventDefault();
      acts[event.key]();
    }

    choose() {
      const boxes = [...this.root.querySelectorAll("[data-choose]")];
      const apply = () => {
        const names = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
        for (const tile of this.tiles) {
          tile.element.hidden = !names.has(tile.element.dataset.method);
          if (!tile.video) continue;
          tile.video.preload = tile.element.hidden ? "metadata" : "auto";
          if (tile.element.hidden) tile.video.pause();
        }
        this.part("chosen").textContent = `${names.size} of ${boxes.length} shown`;
        if (this.playing) this.play();
        else this.show(this.frame);
      };
      const all = (checked) => {
        for (const box of boxes) box.checked = checked;
        apply();
      };
      for (const box of boxes) box.addEventListener("change", apply);
      this.part("all").addEventListener("click", () => all(true));
      this.part("none").addEventListener("click", () => all(false));
      apply();
    }
  }

  for (const root of document.querySelectorAll(".player")) {
    root.querySelector(".controls").hidden = false;
    root.querySelector(".choose").hidden = false;
    root.player = new Player(root);
  }
})();
