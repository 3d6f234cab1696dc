// A slider shows of each run the last image at or before its iteration, or the first one.
for (const section of document.querySelectorAll("[data-steps]")) {
  const slider = section.querySelector(".slider");
  if (!slider) continue;
  const steps = JSON.parse(section.dataset.steps);
  const [input, output] = [slider.querySelector("input"), slider.querySelector("output")];
  const show = () => {
    const now = steps[input.value];
    output.textContent = now;
    for (const figure of section.querySelectorAll("figure")) {
      const images = [...figure.querySelectorAll("img")];
      const shown = images.findLast((image) => image.dataset.iteration <= now) ?? images[0];
      for (const image of images) image.hidden = image !== shown;
    }
  };
  slider.hidden = false;
  input.addEventListener("input", show);
  show();
}
