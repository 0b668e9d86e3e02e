// Every word of the page, in English and Korean. `t` gives a sentence; names from messages go in as text, never as markup.

const WORDS = {
  title: ["Line", "라인"],
  skip: ["Skip to content", "본문으로 건너뛰기"],
  line: ["Line", "라인"],
  alarms: ["Alarms", "알람"],
  system: ["System", "시스템"],
  nav: ["Views", "보기"],
  language: ["한국어", "English"],
  languageHint: ["한국어로 보기", "View in English"],
  theme_auto: ["Theme: system", "테마: 시스템"],
  theme_light: ["Theme: light", "테마: 밝게"],
  theme_dark: ["Theme: dark", "테마: 어둡게"],
  logout: ["Sign out", "로그아웃"],
  live: ["Live", "실시간"],
  waiting: ["Connecting …", "연결 중 …"],
  lost: ["No connection for {age}", "{age} 동안 연결 끊김"],
  lostBanner: [
    "The page has lost its connection to the dashboard. What you see is {age} old. It reconnects by itself.",
    "대시보드와의 연결이 끊겼습니다. 표시된 내용은 {age} 전의 것입니다. 자동으로 다시 연결합니다.",
  ],
  nucleusLost: [
    "The dashboard has no connection to Greengrass. What you see may be old. It reconnects by itself.",
    "대시보드가 Greengrass에 연결되어 있지 않습니다. 표시된 내용이 오래되었을 수 있습니다. 자동으로 다시 연결합니다.",
  ],
  cloudOffline: ["Cloud out of reach: {waiting} results wait on the device and are sent later.", "클라우드에 연결할 수 없음: 결과 {waiting}건이 장치에 보관되어 있으며 나중에 전송됩니다."],

  mood_normal: ["Normal", "정상"],
  mood_abnormal: ["Abnormal", "이상"],
  mood_sensor: ["Sensor fault", "센서 고장"],
  mood_silent: ["No data", "데이터 없음"],
  mood_drift: ["Drift", "드리프트"],
  mood_off: ["Off", "정지"],
  mood_unknown: ["Not judged", "판정 없음"],

  noMachines: ["No machine has been heard yet.", "아직 수신된 설비가 없습니다."],
  noMachinesHint: [
    "Tiles appear with the first results on the result topic. If none come: is the inference component running, and does anything publish readings? The view System says what was heard so far.",
    "결과 토픽에서 첫 결과가 오면 타일이 나타납니다. 오지 않으면 추론 컴포넌트가 실행 중인지, 측정값이 발행되고 있는지 확인하십시오. 시스템 보기에서 지금까지 수신된 내용을 볼 수 있습니다.",
  ],
  allNormal: ["All {count} machines are normal", "설비 {count}대 모두 정상"],
  oneNormal: ["The machine is normal", "설비 정상"],
  needAttention: ["{bad} of {count} machines need attention", "설비 {count}대 중 {bad}대 확인 필요"],
  oneNeedsAttention: ["1 of {count} machines needs attention", "설비 {count}대 중 1대 확인 필요"],
  attention: ["Needs attention", "확인 필요"],
  running: ["Without findings", "이상 없음"],
  filterAll: ["All", "전체"],
  search: ["Find a machine", "설비 찾기"],
  nothingFound: ["No machine matches.", "일치하는 설비가 없습니다."],
  score: ["Score", "점수"],
  scoreOf: ["score {score}", "점수 {score}"],
  threshold: ["threshold {value}", "임계값 {value}"],
  since: ["since {time} ({age})", "{time}부터 ({age})"],
  lastHeard: ["last heard {age} ago", "마지막 수신 {age} 전"],
  unnamed: ["(no name)", "(이름 없음)"],
  why: ["Why", "원인"],
  forecast: ["Failure expected within {hours} h", "{hours}시간 이내 고장 예상"],

  high: ["{sensor} high: {value} (usual {low}–{top})", "{sensor} 높음: {value} (평소 {low}–{top})"],
  low: ["{sensor} low: {value} (usual {low}–{top})", "{sensor} 낮음: {value} (평소 {low}–{top})"],
  unusual: ["{sensor} {value}, unusual together with the others", "{sensor} {value}, 다른 값과의 조합이 비정상"],
  plainReason: ["{sensor} {value}", "{sensor} {value}"],
  noReasons: ["No reasons were given.", "원인 정보가 없습니다."],
  fault_stuck: ["{sensor}: the value does not move", "{sensor}: 값이 변하지 않음"],
  fault_saturated: ["{sensor}: at its limit", "{sensor}: 측정 한계에 도달"],
  fault_missing: ["{sensor}: no value", "{sensor}: 값 없음"],
  fault_inconsistent: ["{sensor}: contradicts the other sensors", "{sensor}: 다른 센서와 모순"],
  fault_other: ["{sensor}: {reason}", "{sensor}: {reason}"],
  kind_equipment: ["Abnormal machine", "설비 이상"],
  kind_sensor: ["Sensor fault", "센서 고장"],
  kind_silence: ["No data", "데이터 없음"],
  kind_drift: ["Data drift", "데이터 드리프트"],
  kind_other: ["Other", "기타"],
  what_silence: ["The machine has stopped reporting", "설비의 데이터가 끊겼습니다"],
  what_drift: ["Data have moved away from what the model was trained on", "데이터가 학습 데이터에서 벗어났습니다"],
  presumed: ["end concluded from results", "결과로부터 종료 판단"],

  back: ["Back to the line", "라인으로 돌아가기"],
  noSuchMachine: ["This machine has not been heard.", "수신된 적이 없는 설비입니다."],
  range: ["Period", "기간"],
  range_live: ["5 min live", "5분 실시간"],
  range_1h: ["1 h", "1시간"],
  range_8h: ["8 h", "8시간"],
  range_24h: ["24 h", "24시간"],
  range_7d: ["7 days", "7일"],
  range_30d: ["30 days", "30일"],
  sensors: ["Sensors", "센서"],
  usualRange: ["usual {low}–{top}", "평소 {low}–{top}"],
  rangeShaded: ["shaded: range of the training data", "음영: 학습 데이터의 범위"],
  alarmShaded: ["red: an alarm was open", "빨강: 알람 발생 구간"],
  chartLabel: ["{what}: now {value}, between {low} and {high} in this period", "{what}: 현재 {value}, 이 기간의 범위 {low}–{high}"],
  chartEmpty: ["{what}: no data in this period", "{what}: 이 기간에 데이터 없음"],
  reasonsTitle: ["What drives the score", "점수에 영향을 준 요인"],
  reasonsHint: ["How far each sensor pushed the score up (right) or down (left), in log-odds, at the last abnormal reading.", "마지막 이상 측정값에서 각 센서가 점수를 높인(오른쪽) 또는 낮춘(왼쪽) 정도(로그 오즈)."],
  openAlarms: ["Open alarms", "진행 중인 알람"],
  machineAlarms: ["Alarms in this period", "이 기간의 알람"],
  noAlarms: ["No alarms.", "알람이 없습니다."],
  noHistory: ["The history cannot be read: {why}", "이력을 읽을 수 없습니다: {why}"],
  loading: ["Loading …", "불러오는 중 …"],

  state: ["State", "상태"],
  kind: ["Kind", "종류"],
  machine: ["Machine", "설비"],
  any: ["All", "전체"],
  open: ["Open", "진행 중"],
  closed: ["Closed", "종료"],
  opened: ["Opened", "시작"],
  duration: ["Duration", "지속 시간"],
  what: ["What", "내용"],
  peak: ["Highest score", "최고 점수"],
  days_1: ["Last 24 hours", "최근 24시간"],
  days_7: ["Last 7 days", "최근 7일"],
  days_30: ["Last 30 days", "최근 30일"],
  days_365: ["Last year", "최근 1년"],
  alarmsShown: ["{count} alarms", "알람 {count}건"],
  oneAlarmShown: ["1 alarm", "알람 1건"],
  alarmsCut: ["the newest {count} alarms; narrow the filters for more", "최신 알람 {count}건; 더 보려면 필터를 좁히십시오"],
  newsOpened: ["Alarm: {machine}. {what}", "알람: {machine}. {what}"],
  newsClosed: ["Alarm ended: {machine}. {what}", "알람 종료: {machine}. {what}"],

  component: ["Inference component", "추론 컴포넌트"],
  componentUnheard: ["No health message has been heard. The component sends one every HealthIntervalSeconds.", "상태 메시지를 받지 못했습니다. 컴포넌트는 HealthIntervalSeconds마다 메시지를 보냅니다."],
  componentLate: ["The last health message is {age} old. If this goes on, the component may be down: see its log on the device.", "마지막 상태 메시지가 {age} 전입니다. 계속되면 컴포넌트가 중지되었을 수 있습니다. 장치의 로그를 확인하십시오."],
  state_running: ["running", "실행 중"],
  state_starting: ["starting", "시작 중"],
  state_stopping: ["stopping", "중지 중"],
  version: ["Version", "버전"],
  model: ["Model", "모델"],
  thresholdName: ["Threshold", "임계값"],
  uptime: ["Running for", "가동 시간"],
  heardAt: ["Last heard", "마지막 수신"],
  readings: ["Readings", "측정값"],
  received: ["received", "수신"],
  scored: ["scored", "판정"],
  rejected: ["rejected", "거부"],
  dropped: ["dropped", "유실"],
  queued: ["queued", "대기"],
  carriedOver: ["carried over", "이월"],
  delivered: ["delivered", "전송"],
  waitingCount: ["waiting", "대기"],
  expired: ["expired", "만료"],
  unwanted: ["kept local", "로컬 보관"],
  addsUp: ["The figures add up.", "수치가 일치합니다."],
  addsNot: ["The figures do not add up: {difference} unaccounted for.", "수치가 일치하지 않습니다: {difference}건 차이."],
  cloud: ["Cloud and outbox", "클라우드와 발신함"],
  cloudOn: ["connected", "연결됨"],
  cloudOff: ["out of reach", "연결 불가"],
  cloudUnknown: ["nothing known yet", "아직 정보 없음"],
  latency: ["Latency", "지연 시간"],
  latencyHint: ["From taking a reading to its result, measured by the component.", "측정값 접수부터 결과까지, 컴포넌트 측정값."],
  half: ["median", "중앙값"],
  worst: ["99 of 100 within", "100건 중 99건"],
  drift: ["Drift", "드리프트"],
  driftHint: ["How far recent readings lie from the training data (PSI, or deviations and their limit). A red bar: look at the model.", "최근 측정값이 학습 데이터에서 벗어난 정도(PSI 또는 편차와 한계). 빨간 막대: 모델 점검 필요."],
  driftNone: ["Not enough readings yet.", "아직 측정값이 부족합니다."],
  problems: ["Problems", "문제"],
  noProblems: ["None reported.", "보고된 문제가 없습니다."],
  todo_configuration: ["Correct the named key and deploy again. Until then the previous configuration stays in force.", "해당 키를 수정하여 다시 배포하십시오. 그때까지 이전 설정이 유지됩니다."],
  todo_model: ["Run `ml-inference verify` on the model directory and roll out a corrected model. The previous one goes on.", "모델 디렉터리에 `ml-inference verify`를 실행하고 수정된 모델을 배포하십시오. 이전 모델이 계속 동작합니다."],
  todo_challenger: ["The challenger is not compared. Check its directory as for a model.", "도전 모델이 비교되지 않습니다. 모델과 같은 방법으로 디렉터리를 확인하십시오."],
  todo_cloud: ["Check the network and the device's connection to AWS IoT Core. Results wait in the outbox meanwhile.", "네트워크와 AWS IoT Core 연결을 확인하십시오. 그동안 결과는 발신함에 보관됩니다."],
  todo_outbox: ["The outbox was repaired or is limited. Check free space and the health of the device's storage.", "발신함이 복구되었거나 제한됩니다. 저장 공간과 저장 장치 상태를 확인하십시오."],
  todo_history: ["The page goes on without its history on disk. Check free space in the dashboard's work directory.", "디스크 이력 없이 계속 동작합니다. 대시보드 작업 디렉터리의 여유 공간을 확인하십시오."],
  todo_dropped: ["More messages came than the dashboard can take. Send readings in batches.", "대시보드가 처리할 수 있는 것보다 많은 메시지가 왔습니다. 측정값을 묶어서 보내십시오."],
  todo_other: ["See the guide for operators, and the component's log.", "운영 가이드와 컴포넌트 로그를 참고하십시오."],
  problem_dashboard: ["dashboard", "대시보드"],
  heardHere: ["Heard by this page", "이 페이지가 수신한 내용"],
  results: ["results", "결과"],
  unreadable: ["unreadable", "읽을 수 없음"],
  nucleus: ["Greengrass", "Greengrass"],
  connected: ["connected", "연결됨"],
  disconnected: ["not connected", "연결 끊김"],
  rejections: ["Latest rejections", "최근 거부"],
  noRejections: ["None.", "없음."],
  values: ["values", "값"],

  seconds: ["{n} s", "{n}초"],
  minutes: ["{n} min", "{n}분"],
  hours: ["{n} h", "{n}시간"],
  hoursMinutes: ["{h} h {m} min", "{h}시간 {m}분"],
  days: ["{n} d", "{n}일"],
  daysHours: ["{d} d {h} h", "{d}일 {h}시간"],
};

// Sensors of the line that the product ships a model for; others are made readable from their names.
const SENSORS = {
  rVibration_Temp: ["Temperature", "온도"],
  rVibration_Z_RMS_Velocity: ["Vibration Z", "진동 Z"],
  rVibration_X_RMS_Velocity: ["Vibration X", "진동 X"],
  wRMSCurrent: ["Current", "전류"],
  wCurrentLoad: ["Load", "부하"],
  wEncoderVelocity: ["Speed", "속도"],
};

const UNITS = { degC: "°C", degF: "°F", RPM: "rpm" };

let language = "en";

export function chooseLanguage(wanted) {
  let stored = null;
  try {
    if (wanted) localStorage.setItem("language", wanted);
    stored = localStorage.getItem("language");
  } catch {
    // A browser that stores nothing asks the system each time.
  }
  const asked = wanted || stored || navigator.language || "en";
  language = asked.toLowerCase().startsWith("ko") ? "ko" : "en";
  document.documentElement.lang = language;
}

export const currentLanguage = () => language;

export function t(key, values = {}) {
  const pair = WORDS[key];
  if (!pair) return key;
  return pair[language === "ko" ? 1 : 0].replace(/\{(\w+)\}/g, (all, name) => (name in values ? String(values[name]) : all));
}

export const known = (key) => key in WORDS;

export function sensorName(name) {
  const pair = Object.hasOwn(SENSORS, name) ? SENSORS[name] : null;
  if (pair) return pair[language === "ko" ? 1 : 0];
  const words = name
    .replace(/^[a-z](?=[A-Z])/, "")
    .replace(/_/g, " ")
    .replace(/([a-z0-9])([A-Z])/g, "$1 $2")
    .trim();
  return words ? words[0].toUpperCase() + words.slice(1) : name;
}

export const unitName = (unit) => (Object.hasOwn(UNITS, unit) ? UNITS[unit] : unit);

export function figure(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  const decimals = size >= 100 ? 0 : size >= 10 ? 1 : Math.max(0, digits - 1);
  return value.toLocaleString(language, { maximumFractionDigits: decimals, minimumFractionDigits: size >= 100 || Number.isInteger(value) ? 0 : Math.min(1, decimals) });
}

export const score = (value) => (value === null || value === undefined ? "–" : Math.abs(value) < 10 ? value.toFixed(2) : figure(value));

export const count = (value) => (typeof value === "number" ? value.toLocaleString(language) : "–");

export function withUnit(value, unit) {
  if (value === null || value === undefined) return "–";
  const shown = unitName(unit || "");
  return shown ? `${figure(value)} ${shown}` : figure(value);
}

export function age(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return t("seconds", { n: s });
  const m = Math.floor(s / 60);
  if (m < 60) return t("minutes", { n: m });
  const h = Math.floor(m / 60);
  if (h < 24) return m % 60 && h < 10 ? t("hoursMinutes", { h, m: m % 60 }) : t("hours", { n: h });
  const d = Math.floor(h / 24);
  return h % 24 && d < 10 ? t("daysHours", { d, h: h % 24 }) : t("days", { n: d });
}

export function clock(seconds, now) {
  const when = new Date(seconds * 1000);
  const today = new Date(now * 1000).toDateString() === when.toDateString();
  const time = { hour: "2-digit", minute: "2-digit", hour12: false };
  return today
    ? when.toLocaleTimeString(language, time)
    : when.toLocaleString(language, { month: "short", day: "numeric", ...time });
}

export function describeReason(reason, feature) {
  const sensor = sensorName(reason.feature);
  const unit = reason.unit || (feature && feature.unit) || "";
  const value = withUnit(reason.value, unit);
  if (!feature || feature.low === null || feature.high === null || typeof reason.value !== "number") return t("plainReason", { sensor, value });
  const usual = { sensor, value, low: figure(feature.low), top: figure(feature.high) };
  if (reason.value > feature.high) return t("high", usual);
  if (reason.value < feature.low) return t("low", usual);
  return t("unusual", usual);
}

export function describeFault(sensor, reason) {
  const key = `fault_${reason}`;
  return known(key) ? t(key, { sensor: sensorName(sensor) }) : t("fault_other", { sensor: sensorName(sensor), reason });
}

export function describeAlarm(alarm, features) {
  if (alarm.kind === "sensor") return describeFault(alarm.sensor, alarm.reason);
  if (alarm.kind === "silence") return t("what_silence");
  if (alarm.kind === "drift") return t("what_drift");
  const reasons = (alarm.reasons || []).filter((reason) => reason.contribution > 0).slice(0, 2);
  return reasons.length ? reasons.map((reason) => describeReason(reason, features.get(reason.feature))).join("; ") : t("kind_equipment");
}

export const kindName = (kind) => (known(`kind_${kind}`) ? t(`kind_${kind}`) : kind || t("kind_other"));
