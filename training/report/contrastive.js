/* Of a contrastive model's page, which has curves alone. Follows page.js. */

document.documentElement.dataset.ready = "";
