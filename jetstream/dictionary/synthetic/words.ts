/** Made-up text, of words that belong to nobody: the commonest ones of some languages, in shares near the network's. */
import type { Random } from '../../../simulator/random.ts';

const words = (text: string): readonly string[] => text.split(/\s+/).filter((word) => word !== '');

const ENGLISH = words(`
  the of and to in a is that it was for on are as with they be at one have this from or had by not but some what there
  we can out other were all your when up use word how said an each she which do their time if will way about many then
  them would write like so these her long make thing see him two has look more day could go come did my sound no most
  number who over know water than call first people may down side been now find any new work part take get place made
  live where after back little only round man year came show every good me give our under name very through just form
  much great think say help low line before turn cause same mean differ move right boy old too does tell sentence set
  three want air well also play small end put home read hand port large spell add even land here must big high such
  follow act why ask men change went light kind off need house picture try us again animal point mother world near
  build self earth father today really really thank thanks love happy morning night week game music art photo coffee
  because going still never always something someone actually maybe better best yes please sorry friend weather`);
const PORTUGUESE = words(`
  que não de um para eu se me uma está com do por te os bem em ele isso mas você mais ela como na já no meu muito aqui
  tem vou sua minha ser foi quando bom hoje agora então também só gente amor dia coisa ainda tudo nada depois você
  então até melhor assim nunca sempre obrigado obrigada amanhã noite música`);
const SPANISH = words(`
  que no de a la el es y en lo un por qué me una te los se con para mi está si bien pero yo eso las sí su tu aquí del al
  como le más esto ya todo esta vamos muy hay ahora algo estoy tengo nos tú nada cuando ha este sé está día también años`);
const GERMAN = words(`
  ich sie das ist du nicht die und es der was wir zu ein er in mir mit ja wie den auf mich dass so hier eine wenn hat
  all sind von dich war haben für an habe da nein bin noch dir uns sich nur schön heute für über können müssen`);
const JAPANESE = words(`
  の に は を た が で て と し れ さ ある いる する から など なっ ない この ため その あっ よう また もの という あり まで られ なる へ か
  だ これ によって により おり より による ず なり られる 今日 明日 ありがとう おはよう ございます 好き 写真 天気 人 日 年 時 本 話 。 、 ！`);
const KOREAN = words(
  `오늘 정말 너무 그리고 하지만 있는 없는 저는 우리 사람 것이 하는 같은 좋은 감사합니다 안녕하세요`,
);
const FRENCH = words(`
  de je est pas le vous la tu que un il et à a ne les ce en on ça une ai pour des moi qui nous mais y me dans du bien
  elle si tout plus non mon suis te au avec va oui toi fait ils as être aujourd’hui très déjà même après`);
const EXTRAS = ['😂', '❤️', '🥰', '😭', '🔥', '✨', '🙏', '👍', '☕', '🎉', '…', '’', '“', '”', '—', '🌧️'];

/** Languages with their share of posts, what their words are joined by. */
const LANGUAGES: readonly (readonly [code: string, share: number, list: readonly string[], gap: string])[] = [
  ['en', 62, ENGLISH, ' '],
  ['ja', 14, JAPANESE, ''],
  ['pt', 9, PORTUGUESE, ' '],
  ['es', 4, SPANISH, ' '],
  ['de', 5, GERMAN, ' '],
  ['fr', 3, FRENCH, ' '],
  ['ko', 2, KOREAN, ' '],
];
const SHARES = LANGUAGES.reduce((sum, [, share]) => sum + share, 0);

export interface MadeText {
  readonly text: string;
  readonly language: string;
}

/** Common words are commoner: the first of a list come up most. */
const skewed = <T>(random: Random, list: readonly T[]): T =>
  list[Math.floor(random.unit() * random.unit() * list.length)]!;

/** About `length` characters of made-up text, in a drawn or the given language. */
export const madeText = (random: Random, length: number, code: string | null = null): MadeText => {
  let point = random.unit() * SHARES;
  const [language, , list, gap] =
    LANGUAGES.find(([each]) => each === code) ??
    LANGUAGES.find(([, share]) => {
      point -= share;
      return point < 0;
    }) ??
    LANGUAGES[0]!;
  let text = '';
  while (text.length < length) {
    const word = skewed(random, list);
    text += text === '' ? `${word[0]!.toUpperCase()}${word.slice(1)}` : `${gap}${word}`;
    if (random.chance(0.08)) text += random.pick([',', '.', '!', '?', '\n\n', '\n', '...']);
    if (random.chance(0.02)) text += ` ${random.pick(EXTRAS)}`;
  }
  return { text, language };
};

/** One word of ASCII letters, as names and paths are made of. */
export const madeWord = (random: Random): string => skewed(random, ENGLISH);
