// A real report in a real browser. REPORT is the folder of an experiment with its report, PROGRAM the program that made it;
// PICTURES, if set, a folder for screenshots. Node's own test runner, and Debian's Chromium driven by playwright-core.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import axe from 'axe-core';
import { chromium } from 'playwright-core';

const { REPORT, PROGRAM, PICTURES } = process.env;
const HOSTILE = '<script>window.hostile = 1</script><img src=x onerror="window.hostile = 1">';
const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'];

let browser;
let scratch;

before(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'mantissa-browser-'));
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: FLAGS });
});

after(async () => {
  await browser?.close();
  rmSync(scratch, { recursive: true, force: true });
});

// A page on the report in `folder`, and all that went wrong on it.
const open = async (folder, { hash = '', ...options } = {}) => {
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, ...options });
  const page = await context.newPage();
  const wrong = [];
  page.on('console', (message) => wrong.push(`${message.type()}: ${message.text()}`));
  page.on('pageerror', (error) => wrong.push(`error: ${error.message}`));
  page.on('dialog', (dialog) => { wrong.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on('request', (request) => {
    if (!/^(file|data|blob):/.test(request.url())) wrong.push(`request: ${request.url()}`);
  });
  const url = pathToFileURL(join(folder, 'report.html')).href;
  const began = Date.now();
  await page.goto(url + hash);
  console.log(`loaded in ${Date.now() - began} ms`);
  return { page, wrong, close: () => context.close() };
};

// Opens what is folded around a figure, scrolls to it and waits until it is a plot.
const figure = async (page, name) => {
  const found = page.locator(`#figure-${name}`);
  await found.evaluate((element) => { const folded = element.closest('details'); if (folded) folded.open = true; });
  await found.scrollIntoViewIfNeeded();
  await found.locator('.plot .main-svg').first().waitFor();
  return found;
};

const picture = async (page, name) => {
  if (!PICTURES) return;
  mkdirSync(PICTURES, { recursive: true });
  await page.screenshot({ path: join(PICTURES, `${name}.png`), fullPage: true });
};

const figures = (page) => page.locator('#figures figure').evaluateAll((all) => all.map((one) => one.id.replace('figure-', '')));

// The traces of a plot, as the library holds them.
const traces = (plot) => plot.evaluate((element) => element.data.map(({ legendgroup, visible }) => [legendgroup, visible]));

describe('a report', () => {
  test('is whole, silent, and asks for nothing', async () => {
    const { page, wrong, close } = await open(REPORT);
    const names = await figures(page);
    assert.equal(names.length, 11);
    for (const name of names) await figure(page, name);
    await picture(page, 'light');
    for (const landmark of ['banner', 'navigation', 'main', 'contentinfo']) {
      assert.equal(await page.getByRole(landmark).count(), 1, landmark);
    }
    for (const plot of await page.locator('.plot').all()) {
      assert.match(await plot.getAttribute('aria-label'), /\d/);
    }
    assert.deepEqual(wrong, []);
    await close();
  });

  test('is sorted by a column, with the keyboard', async () => {
    const { page, close } = await open(REPORT);
    const head = page.locator('#comparison-table thead th').nth(2);
    const column = () => page.locator('#comparison-table tbody tr').evaluateAll((rows) => rows.map((row) => row.cells[2].dataset.sort));
    const numbers = (await column()).filter((key) => key !== '').map(Number);
    assert.ok(numbers.length > 1);
    const order = async (direction) => {
      assert.equal(await head.getAttribute('aria-sort'), direction);
      return (await column()).filter((key) => key !== '').map(Number);
    };
    await head.getByRole('button').focus();
    await page.keyboard.press('Enter');
    assert.deepEqual(await order('ascending'), [...numbers].sort((a, b) => a - b));
    await page.keyboard.press('Enter');
    assert.deepEqual(await order('descending'), [...numbers].sort((a, b) => b - a));
    await close();
  });

  test('shows the columns that differ', async () => {
    const { page, close } = await open(REPORT);
    const same = page.locator('#comparison-table thead th.same');
    assert.ok(await same.count() > 0, 'this report has no column in which all rows agree');
    assert.ok(await same.first().isVisible());
    const button = page.getByRole('button', { name: 'Differences only' });
    await button.click();
    assert.equal(await button.getAttribute('aria-pressed'), 'true');
    assert.ok(!await same.first().isVisible());
    assert.ok(await page.locator('#comparison-table thead th').nth(2).isVisible());
    await close();
  });

  test('hides a series, and shows it again', async () => {
    const { page, wrong, close } = await open(REPORT);
    const loss = await figure(page, 'loss');
    const button = loss.locator('.keys button').nth(1);
    const series = await button.getAttribute('data-series');
    const shown = async (of) => (await traces(loss.locator('.plot'))).filter(([group]) => (group === series) === of).map(([, visible]) => visible);
    assert.ok((await shown(true)).length > 1);
    assert.ok((await shown(true)).every((visible) => visible));
    await button.focus();
    await page.keyboard.press('Space');
    assert.equal(await button.getAttribute('aria-pressed'), 'false');
    assert.ok((await shown(true)).every((visible) => visible === false));
    assert.ok((await shown(false)).every((visible) => visible));
    // What was zoomed into stays.
    const range = () => loss.locator('.plot').evaluate((plot) => plot._fullLayout.xaxis.range);
    const [whole, area] = [await range(), await loss.locator('.plot .nsewdrag').first().boundingBox()];
    await page.mouse.move(area.x + area.width / 4, area.y + area.height / 4);
    await page.mouse.down();
    await page.mouse.move(area.x + area.width / 2, area.y + area.height / 2, { steps: 5 });
    await page.mouse.up();
    await page.waitForFunction(([element, before]) => element._fullLayout.xaxis.range[1] < before, [await loss.locator('.plot').elementHandle(), whole[1]]);
    const near = await range();
    await button.click();
    assert.ok((await shown(true)).every((visible) => visible));
    assert.deepEqual(await range(), near);
    assert.deepEqual(wrong, []);
    await close();
  });

  test('changes a scale and its origin', async () => {
    const { page, wrong, close } = await open(REPORT);
    const loss = await figure(page, 'loss');
    const axis = () => loss.locator('.plot').evaluate((plot) => ({ type: plot._fullLayout.yaxis.type, range: plot._fullLayout.yaxis.range }));
    const first = await axis();
    const scale = loss.getByRole('button', { name: 'Log scale' });
    const zero = loss.getByRole('button', { name: 'From 0' });
    assert.equal(await scale.getAttribute('aria-pressed'), String(first.type === 'log'));
    if (first.type !== 'log') await scale.click();
    assert.equal((await axis()).type, 'log');
    assert.ok(await zero.isDisabled(), 'a logarithm has no 0');
    await scale.click();
    assert.equal((await axis()).type, 'linear');
    await zero.click();
    const fromZero = await axis();
    assert.ok(fromZero.type === 'linear' && fromZero.range[0] <= 0);
    await zero.click();
    assert.equal((await axis()).type, 'linear');
    assert.ok((await axis()).range[1] < 2 * fromZero.range[1], 'losses, not their logarithms');
    if (first.type === 'log') await scale.click();
    assert.deepEqual(await axis(), first);
    const accuracy = await figure(page, 'accuracy');
    const name = (await accuracy.getAttribute('data-zero')).split(' ').pop();
    const origin = () => accuracy.locator('.plot').evaluate((plot, name) => plot._fullLayout[name].range[0], name);
    assert.ok(await origin() > 0);
    await accuracy.getByRole('button', { name: 'From 0' }).click();
    assert.ok(await origin() <= 0);
    assert.deepEqual(wrong, []);
    await close();
  });

  test('zooms with the keyboard', async () => {
    const { page, wrong, close } = await open(REPORT);
    const loss = await figure(page, 'loss');
    const range = () => loss.locator('.plot').evaluate((plot) => plot._fullLayout.xaxis.range);
    const whole = await range();
    const width = async () => { const [low, high] = await range(); return high - low; };
    const tool = (name) => loss.locator('.plot').getByRole('button', { name });
    await loss.locator('.head button').last().focus();
    for (let stops = 0; !await tool('Zoom in').evaluate((button) => button === document.activeElement); stops += 1) {
      assert.ok(stops < 20, 'the tab key does not come to it');
      await page.keyboard.press('Tab');
    }
    await page.waitForFunction((button) => getComputedStyle(button.parentElement).opacity === '1', await tool('Zoom in').elementHandle());
    await page.keyboard.press('Enter');
    assert.ok(await width() < 0.6 * (whole[1] - whole[0]), 'half as wide');
    await tool('Reset axes').focus();
    await page.keyboard.press('Space');
    assert.deepEqual(await range(), whole);
    await close();
    assert.deepEqual(wrong, []);
  });

  test('tells values where the pointer is', async () => {
    const { page, close } = await open(REPORT);
    const accuracy = await figure(page, 'accuracy');
    // The marks of the runs come after those of the lines by step.
    await accuracy.locator('.plot .points path').last().hover({ force: true });
    const label = accuracy.locator('.hovertext');
    await label.first().waitFor();
    assert.match(await label.first().textContent(), /: \d+\.\d+%/);
    await close();
  });

  test('is dark where asked to, and light on paper', async () => {
    const { page, wrong, close } = await open(REPORT, { colorScheme: 'dark' });
    const ground = (plot) => plot.evaluate((element) => element._fullLayout.paper_bgcolor);
    const theme = () => page.evaluate(() => document.documentElement.dataset.theme);
    assert.equal(await theme(), 'dark');
    const memory = await figure(page, 'memory');
    assert.equal(await ground(memory.locator('.plot')), '#14171C');
    for (const name of await figures(page)) await figure(page, name);
    await picture(page, 'dark');
    await page.getByRole('button', { name: 'Theme: as the system' }).click();
    assert.equal(await theme(), 'light');
    assert.equal(await ground(memory.locator('.plot')), '#FFFFFF');
    await page.getByRole('button', { name: 'Theme: light' }).click();
    assert.equal(await theme(), 'dark');
    await page.emulateMedia({ media: 'print' });
    await page.waitForFunction(() => document.documentElement.dataset.theme === 'light');
    assert.ok(await memory.locator('.card > svg').isVisible());
    assert.ok(!await memory.locator('.plot').isVisible());
    assert.deepEqual(wrong, []);
    await close();
  });

  test('opens what a link points into', async () => {
    const { page, close } = await open(REPORT, { hash: '#variant-2' });
    const details = page.locator('#variant-2');
    assert.equal(await details.evaluate((element) => element.open), true);
    assert.ok(await details.locator('table').first().isVisible());
    await close();
  });

  test('does not move while its drawings become plots', async () => {
    const { page, close } = await open(REPORT);
    const places = () => page.locator('#figures figure, #environment').evaluateAll((all) => all.map((one) => Math.round(one.getBoundingClientRect().top + scrollY)));
    const before = await places();
    for (const name of (await figures(page)).filter((name) => name !== 'exponents-by-layer')) await figure(page, name);
    assert.deepEqual(await places(), before);
    await close();
  });

  test('lands where a link points', async () => {
    for (const name of ['exponents', 'exponents-by-layer', 'accuracy-difference']) {
      const { page, close } = await open(REPORT, { hash: `#figure-${name}` });
      await page.locator(`#figure-${name} .plot .main-svg`).first().waitFor();
      const top = () => page.locator(`#figure-${name}`).evaluate((element) => element.getBoundingClientRect().top);
      await page.waitForFunction((name) => Math.abs(document.getElementById(`figure-${name}`).getBoundingClientRect().top) < 100, name);
      await page.waitForTimeout(500);
      assert.ok(Math.abs(await top()) < 100, `${name}: ${await top()} pixels from the top`);
      await close();
    }
  });

  test('keeps its drawings on a narrow screen', async () => {
    const { page, wrong, close } = await open(REPORT, { viewport: { width: 390, height: 844 } });
    const loss = page.locator('#figure-loss');
    await loss.scrollIntoViewIfNeeded();
    await page.waitForTimeout(300);
    assert.ok(await loss.locator('.card > svg').isVisible());
    assert.equal(await page.locator('.main-svg').count(), 0);
    assert.equal(await loss.getByRole('button', { name: 'Log scale' }).count(), 0, 'a button that does nothing');
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth) <= 390, 'the page moves sideways');
    await page.evaluate(axe.source);
    assert.deepEqual((await page.evaluate(() => axe.run())).violations.map(({ id }) => id), []);
    await picture(page, 'narrow');
    await page.setViewportSize({ width: 1200, height: 900 });
    await figure(page, 'loss');
    assert.deepEqual(wrong, []);
    await close();
  });

  test('is printed on at most eight pages', async () => {
    const { page, close } = await open(REPORT);
    for (const name of (await figures(page)).filter((name) => name !== 'exponents-by-layer')) await figure(page, name);
    const pdf = await page.pdf({ format: 'A4', margin: { top: '1cm', bottom: '1cm', left: '1cm', right: '1cm' } });
    if (PICTURES) writeFileSync(join(PICTURES, 'print.pdf'), pdf);
    const pages = pdf.toString('latin1').match(/\/Type\s*\/Page\b/g).length;
    assert.ok(pages <= 8, `${pages} pages`);
    await close();
  });

  for (const colorScheme of ['light', 'dark']) {
    test(`has nothing that axe objects to, ${colorScheme}`, async () => {
      const { page, close } = await open(REPORT, { colorScheme });
      for (const name of await figures(page)) await figure(page, name);
      await page.evaluate(axe.source);
      const { violations } = await page.evaluate(() => axe.run());
      const told = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.target.join(' ')).slice(0, 5).join(', ')}`);
      assert.deepEqual(told, []);
      await close();
    });
  }

  test('gives its tables and drawings away', async () => {
    const { page, close } = await open(REPORT);
    const download = async (click) => {
      const [file] = await Promise.all([page.waitForEvent('download'), click()]);
      return [file.suggestedFilename(), readFileSync(await file.path())];
    };
    for (const [name, file] of [['CSV', 'results.csv'], ['Markdown', 'summary.md'], ['LaTeX', 'results.tex']]) {
      const link = page.getByRole('link', { name, exact: true });
      assert.deepEqual(await download(() => link.click()), [file, readFileSync(join(REPORT, file))]);
    }
    const [, json] = await download(() => page.getByRole('link', { name: 'JSON', exact: true }).click());
    assert.deepEqual(JSON.parse(json).variants, JSON.parse(readFileSync(join(REPORT, 'results.json'))).variants);
    const memory = page.locator('#figure-memory');
    await memory.scrollIntoViewIfNeeded();
    const [svgName, svg] = await download(() => memory.getByRole('button', { name: 'SVG' }).click());
    assert.equal(svgName, 'memory.svg');
    assert.match(svg.toString(), /^<svg /);
    const [pngName, png] = await download(() => memory.getByRole('button', { name: 'PNG' }).click());
    assert.equal(pngName, 'memory.png');
    assert.equal(png.subarray(1, 4).toString(), 'PNG');
    assert.ok(png.readUInt32BE(16) >= 1920, 'at least as wide as the file beside the report');
    await close();
  });

  test('says the same without scripts', async () => {
    const { page, wrong, close } = await open(REPORT, { javaScriptEnabled: false });
    assert.equal(await page.locator('.card > svg').count(), 11);
    for (const svg of await page.locator('#figures > figure .card > svg').all()) assert.ok(await svg.isVisible());
    assert.ok(await page.locator('.more > summary').isVisible());
    assert.ok(await page.locator('#comparison-table').isVisible());
    assert.equal(await page.getByRole('button').count(), 0, 'a button that does nothing');
    assert.deepEqual(wrong, []);
    await close();
  });

  test('shows a hostile name and does not run it', async () => {
    const folder = join(scratch, 'hostile');
    cpSync(REPORT, folder, { recursive: true });
    const file = join(folder, 'results.json');
    const results = JSON.parse(readFileSync(file));
    const old = results.plan.variants[1].name;
    results.plan.variants[1].name = HOSTILE;
    results.variants[1].name = HOSTILE;
    results.claims.filter((claim) => claim.variant === old).forEach((claim) => { claim.variant = HOSTILE; });
    results.recommendation = { variant: HOSTILE, reason: HOSTILE, more_seeds: null };
    results.environment.device_name = HOSTILE;
    writeFileSync(file, JSON.stringify(results));
    execFileSync(PROGRAM, ['report', folder]);
    const { page, wrong, close } = await open(folder);
    for (const name of await figures(page)) await figure(page, name);
    assert.equal(await page.evaluate(() => window.hostile), undefined);
    assert.equal(await page.locator('img').count(), 0);
    const name = page.locator('#comparison-table tbody th').nth(1).locator('span').first();
    assert.equal(await name.textContent(), HOSTILE);
    const labels = await page.locator('#figure-memory .ytick').allTextContents();
    assert.ok(labels.some((label) => label.startsWith('<script>')), labels.join('; '));
    await picture(page, 'hostile');
    assert.deepEqual(wrong, []);
    await close();
  });
});
