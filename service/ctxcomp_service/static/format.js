/** Numbers for people. */

const whole = new Intl.NumberFormat("en");

/** 12345 as "12,345". */
export function count(n) {
  return whole.format(Math.round(n));
}

/** "1 passage", "2 passages". */
export function countOf(n, noun) {
  return `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
}

/** 0.907 as "90.7 %". */
export function percent(share) {
  const digits = share === 0 || share === 1 ? 0 : 1;
  return `${(share * 100).toFixed(digits)} %`;
}

/** Seconds with what matters of them. */
export function seconds(value) {
  return value < 0.0995 ? `${Math.max(1, Math.round(value * 1000))} ms` : `${value.toFixed(value < 9.95 ? 2 : 0)} s`;
}

/** Dollars in cents, or with two digits that are not zero. */
export function dollars(value) {
  if (value === 0) return "$0";
  const zeros = Math.floor(-Math.log10(value));
  return `$${value.toFixed(Math.min(Math.max(2, zeros + 2), 8))}`;
}

/** A score of whatever scale, in three digits. */
export function score(value) {
  const size = Math.abs(value);
  if (size === 0 || Number.isInteger(value)) return String(value);
  return size < 1e-4 || size >= 1e6 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}
