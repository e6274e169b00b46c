"use strict";
// Without this script the page shows the samples of the base and of the last iteration with the browser's own players.

const choices = [...document.querySelectorAll('input[name="iteration"]')];
const variants = [...document.querySelectorAll("[data-iteration]")];

function show(iteration) {
  for (const element of variants) element.hidden = element.dataset.iteration !== iteration;
}

for (const choice of choices) choice.addEventListener("change", () => show(choice.value));
if (choices.length) show(choices.find((choice) => choice.checked).value);

const players = [...document.querySelectorAll(".player")];

function connect(player) {
  const audio = player.querySelector("audio");
  const picture = player.querySelector(".picture");
  const head = player.querySelector(".playhead");
  const time = player.querySelector(".time");

  const button = document.createElement("button");
  button.type = "button";
  button.className = "play";
  const label = "Play " + audio.getAttribute("aria-label");
  button.setAttribute("aria-label", label);
  audio.controls = false;
  audio.before(button);

  function draw() {
    head.style.left = (100 * audio.currentTime) / (audio.duration || 1) + "%";
    const past = audio.currentTime ? audio.currentTime.toFixed(1) + " / " : "";
    time.textContent = past + audio.duration.toFixed(1) + " s";
    if (!audio.paused) requestAnimationFrame(draw);
  }
  function mark() {
    player.classList.toggle("playing", !audio.paused);
    button.setAttribute("aria-pressed", String(!audio.paused));
    draw();
  }
  button.addEventListener("click", () => (audio.paused ? audio.play() : audio.pause()));
  picture.addEventListener("click", (event) => {
    const box = picture.getBoundingClientRect();
    audio.currentTime = ((event.clientX - box.left) / box.width) * (audio.duration || 0);
    audio.play();
  });
  audio.addEventListener("play", () => {
    for (const other of players) if (other !== player) other.querySelector("audio").pause();
    mark();
  });
  audio.addEventListener("error", () => {
    button.disabled = true;
    time.textContent = "this browser cannot play this audio";
  });
  audio.addEventListener("loadedmetadata", () => {
    button.setAttribute("aria-label", `${label}, ${audio.duration.toFixed(1)} seconds`);
  });
  for (const name of ["pause", "ended", "seeked"]) audio.addEventListener(name, mark);
}

players.forEach(connect);
