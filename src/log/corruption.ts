/** What can be wrong with bytes of the log, in the words of `bun run log verify`. */
export type Damage =
  | 'segment header'
  | 'record length'
  | 'record checksum'
  | 'record cut off'
  | 'seq not continuous'
  | 'log time not increasing'
  | 'segment missing'
  | 'segment size'
  | 'host names';

/**
 * Our own bytes are not what we wrote. Never caught to go on: reading around damage would hand consumers a gap.
 * `position` is the byte offset in `file`.
 */
export class LogCorruption extends Error {
  readonly file: string;
  readonly position: number;
  readonly damage: Damage;
  readonly detail: string;

  constructor(file: string, position: number, damage: Damage, detail = '') {
    super(
      `log damaged: ${damage} in ${file} at byte ${position}${detail === '' ? '' : ` (${detail})`}; ` +
        `"bun run log verify" lists all damage`,
    );
    this.name = 'LogCorruption';
    this.file = file;
    this.position = position;
    this.damage = damage;
    this.detail = detail;
  }
}
