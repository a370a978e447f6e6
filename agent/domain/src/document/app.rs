//! The types of the app and job documents: `Microsoft.App/containerApps` and `Microsoft.App/jobs`, API 2026-07-01.
//!
//! Every field of the schema is known by name and type. Scalars have the type they are used as; what is only kept to
//! be warned about is kept as it came.

use std::collections::BTreeMap;

use crate::model::{AppName, EnvironmentName, RevisionName, RevisionSuffix};
use crate::replica::Secret;
use crate::storage::MountOptions;

/// A document, of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// `Microsoft.App/containerApps`.
    App(Box<AppDocument>),
    /// `Microsoft.App/jobs`.
    Job(Box<JobDocument>),
    /// `Microsoft.App/managedEnvironments`.
    Environment(Box<super::EnvironmentDocument>),
}

/// `Microsoft.App/containerApps`.
#[derive(Debug, Clone, PartialEq)]
pub struct AppDocument {
    /// Its name, where it gives one.
    pub name: Option<AppName>,
    /// The last segment of `environmentId`, or `default`.
    pub environment: EnvironmentName,
    /// Resource tags.
    pub tags: BTreeMap<String, String>,
    /// Applies to all revisions at once.
    pub configuration: Configuration,
    /// A change of it makes a new revision.
    pub template: Template,
    /// What a device needs and ACA lacks.
    pub skerry: SkerryBlock,
}

/// `Microsoft.App/jobs`.
#[derive(Debug, Clone, PartialEq)]
pub struct JobDocument {
    /// Its name, where it gives one.
    pub name: Option<AppName>,
    /// The last segment of `environmentId`, or `default`.
    pub environment: EnvironmentName,
    /// Resource tags.
    pub tags: BTreeMap<String, String>,
    /// When it runs, and its secrets and registries.
    pub configuration: JobConfiguration,
    /// What runs; `scale` is not used.
    pub template: Template,
    /// What a device needs and ACA lacks.
    pub skerry: SkerryBlock,
}

/// `properties.configuration` of an app.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Configuration {
    /// Names and values.
    pub secrets: Vec<SecretEntry>,
    /// Single by default.
    pub active_revisions_mode: RevisionsMode,
    /// Present is on.
    pub ingress: Option<Ingress>,
    /// Credentials.
    pub registries: Vec<Registry>,
    /// The sidecar.
    pub dapr: Option<Dapr>,
    /// `runtime.java.enableMetrics`.
    pub java_metrics: Option<bool>,
    /// 100 by default.
    pub max_inactive_revisions: Option<u32>,
    /// `service.type`, a development service.
    pub service: Option<String>,
    /// Which identity is there in which stage.
    pub identity_settings: Vec<IdentitySetting>,
    /// Labels mode: the label that the next revision gets.
    pub target_label: Option<String>,
}

/// `properties.configuration` of a job.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JobConfiguration {
    /// Names and values.
    pub secrets: Vec<SecretEntry>,
    /// What starts an execution.
    pub trigger: Trigger,
    /// Seconds that a replica may run.
    pub replica_timeout_secs: u32,
    /// Retries before an execution has failed; 0 is none.
    pub replica_retry_limit: u32,
    /// Credentials.
    pub registries: Vec<Registry>,
    /// Which identity is there in which stage.
    pub identity_settings: Vec<IdentitySetting>,
}

/// What starts an execution of a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Trigger {
    /// A person or a program.
    Manual {
        /// Replicas at a time and successes needed.
        run: JobRun,
    },
    /// The clock, in UTC.
    Schedule {
        /// Five fields.
        cron: String,
        /// Replicas at a time and successes needed.
        run: JobRun,
    },
    /// A scaler.
    Event {
        /// Replicas at a time and successes needed.
        run: JobRun,
        /// When how many.
        scale: JobScale,
    },
}

impl Default for Trigger {
    fn default() -> Self {
        Self::Manual { run: JobRun::default() }
    }
}

/// How one execution runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobRun {
    /// Successes needed.
    pub replica_completion_count: u32,
    /// Replicas at a time.
    pub parallelism: u32,
}

impl Default for JobRun {
    fn default() -> Self {
        Self { replica_completion_count: 1, parallelism: 1 }
    }
}

/// `eventTriggerConfig.scale`.
#[derive(Debug, Clone, PartialEq)]
pub struct JobScale {
    /// Seconds between two looks, 30 by default.
    pub polling_interval_secs: u32,
    /// 0 by default.
    pub min_executions: u32,
    /// 100 by default.
    pub max_executions: u32,
    /// The rules.
    pub rules: Vec<JobScaleRule>,
}

/// A rule of `eventTriggerConfig.scale`.
#[derive(Debug, Clone, PartialEq)]
pub struct JobScaleRule {
    /// Its name.
    pub name: String,
    /// The scaler.
    pub kind: String,
    /// Any JSON, values as text where they are scalars.
    pub metadata: BTreeMap<String, serde_json::Value>,
    /// Secrets for the scaler.
    pub auth: Vec<ScaleAuth>,
    /// A managed identity.
    pub identity: Option<String>,
}

/// A secret of an app or a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretEntry {
    /// Its name.
    pub name: String,
    /// Its value; a name without one keeps the stored value.
    pub value: Option<Secret>,
    /// Where it lies in Azure.
    pub key_vault_url: Option<String>,
    /// Who may read it there.
    pub identity: Option<String>,
}

/// `activeRevisionsMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RevisionsMode {
    /// One revision serves; a new one takes over when it is ready.
    #[default]
    Single,
    /// The user splits the traffic.
    Multiple,
    /// Revisions live while a label points at them.
    Labels,
}

/// `configuration.ingress`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ingress {
    /// Reached from the LAN too.
    pub external: bool,
    /// The port that the app listens on; 0 is not given.
    pub target_port: u16,
    /// TCP: the port that others use; 0 is not given.
    pub exposed_port: u16,
    /// What is spoken to the app.
    pub transport: crate::route::Transport,
    /// The split.
    pub traffic: Vec<TrafficEntry>,
    /// Host names of the user's own.
    pub custom_domains: Vec<CustomDomain>,
    /// No redirect to HTTPS.
    pub allow_insecure: bool,
    /// Who may come in.
    pub ip_restrictions: Vec<IpRestriction>,
    /// A client stays with its replica.
    pub sticky: bool,
    /// mTLS.
    pub client_certificates: ClientCertificates,
    /// CORS.
    pub cors: Option<Cors>,
    /// Up to five more TCP ports.
    pub additional_ports: Vec<PortMapping>,
}

/// An entry of `ingress.traffic`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrafficEntry {
    /// By name …
    pub revision: Option<RevisionName>,
    /// … or the newest that is ready.
    pub latest: bool,
    /// Per cent.
    pub weight: u32,
    /// A host name of its own.
    pub label: Option<String>,
}

/// An entry of `ingress.customDomains`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomDomain {
    /// The host name, lower case.
    pub name: String,
    /// How TLS finds it.
    pub binding: Option<DomainBinding>,
    /// Its certificate in the environment.
    pub certificate_id: Option<String>,
}

/// `customDomains[].bindingType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainBinding {
    /// Plain HTTP.
    Disabled,
    /// By the name in the TLS greeting.
    SniEnabled,
    /// A managed certificate.
    Auto,
}

/// An entry of `ingress.ipSecurityRestrictions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpRestriction {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// IPv4, host bits cleared.
    pub range: ipnet::Ipv4Net,
    /// All rules of an app are of one kind.
    pub action: IpAction,
}

/// `ipSecurityRestrictions[].action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpAction {
    /// Only those.
    Allow,
    /// All but those.
    Deny,
}

/// `ingress.clientCertificateMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCertificates {
    /// Dropped.
    #[default]
    Ignore,
    /// Forwarded where given.
    Accept,
    /// Required.
    Require,
}

/// `ingress.corsPolicy`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cors {
    /// `*` is all.
    pub allowed_origins: Vec<String>,
    /// Methods.
    pub allowed_methods: Vec<String>,
    /// Headers of the request.
    pub allowed_headers: Vec<String>,
    /// Headers of the answer.
    pub expose_headers: Vec<String>,
    /// Seconds.
    pub max_age_secs: Option<u32>,
    /// Cookies and the like.
    pub allow_credentials: bool,
}

/// An entry of `ingress.additionalPortMappings`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortMapping {
    /// From the LAN too.
    pub external: bool,
    /// The port that the app listens on.
    pub target_port: u16,
    /// The port that others use.
    pub exposed_port: u16,
}

/// An entry of `configuration.registries`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// `host` or `host:port`.
    pub server: String,
    /// The user.
    pub username: Option<String>,
    /// The secret with the password.
    pub password_secret_ref: Option<String>,
    /// A managed identity.
    pub identity: Option<String>,
}

/// `configuration.dapr`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dapr {
    /// On.
    pub enabled: bool,
    /// The app's name where not given.
    pub app_id: Option<String>,
    /// What the app speaks.
    pub app_protocol: DaprProtocol,
    /// Where the app listens.
    pub app_port: Option<u16>,
    /// KB.
    pub http_read_buffer_size: Option<u32>,
    /// MB.
    pub http_max_request_size: Option<u32>,
    /// Of the sidecar.
    pub log_level: Option<String>,
    /// Each call in the log.
    pub enable_api_logging: bool,
    /// Checks of the app.
    pub app_health: Option<DaprAppHealth>,
    /// Requests at a time.
    pub max_concurrency: Option<u32>,
}

/// `dapr.appProtocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DaprProtocol {
    /// HTTP.
    #[default]
    Http,
    /// gRPC.
    Grpc,
}

/// `dapr.appHealth`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DaprAppHealth {
    /// On.
    pub enabled: bool,
    /// Where.
    pub path: Option<String>,
    /// How often.
    pub probe_interval_seconds: Option<u32>,
    /// How long.
    pub probe_timeout_milliseconds: Option<u32>,
    /// How many.
    pub threshold: Option<u32>,
}

/// An entry of `configuration.identitySettings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentitySetting {
    /// Which identity.
    pub identity: String,
    /// `None`, `Main`, `Init` or `All`.
    pub lifecycle: Option<String>,
}

/// `properties.template`: what a revision is a snapshot of.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Template {
    /// Given by the user, unique for ever.
    pub revision_suffix: Option<RevisionSuffix>,
    /// Seconds from SIGTERM to SIGKILL, 30 by default.
    pub termination_grace_period_secs: Option<u32>,
    /// Run in order, each to its end, before the others.
    pub init_containers: Vec<Container>,
    /// The first is the main one.
    pub containers: Vec<Container>,
    /// How many.
    pub scale: Scale,
    /// Volumes that the containers mount.
    pub volumes: Vec<Volume>,
    /// Development services.
    pub service_binds: Vec<ServiceBind>,
    /// What the `skerry` block asks for its containers: part of the snapshot, so that a change makes a revision.
    pub extras: Extras,
}

impl Template {
    /// From SIGTERM to SIGKILL, where it says so.
    pub fn grace(&self) -> Option<std::time::Duration> {
        self.termination_grace_period_secs.map(|secs| std::time::Duration::from_secs(secs.into()))
    }

    /// The image of each container, init containers first.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        let containers = self.init_containers.iter().chain(&self.containers);
        containers.map(|container| container.image.as_str())
    }
}

/// What the `skerry` block asks for the containers of a template.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extras {
    /// Devices of the board, in every container; held by one replica at a time.
    pub devices: Vec<Device>,
    /// Added and dropped in every container.
    pub capabilities: Capabilities,
    /// Exec probes, by container and kind: the command.
    pub exec_probes: BTreeMap<String, BTreeMap<crate::probe::ProbeKind, Vec<String>>>,
}

/// A container; init containers have no probes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Container {
    /// Unique in the template.
    pub name: String,
    /// The reference as it was written.
    pub image: String,
    /// Replaces the image's entrypoint.
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    pub args: Vec<String>,
    /// In order; of two with one name the last wins.
    pub env: Vec<EnvVar>,
    /// Limits.
    pub resources: Resources,
    /// Where volumes appear.
    pub volume_mounts: Vec<VolumeMount>,
    /// At most one of each type.
    pub probes: Vec<ContainerProbe>,
}

/// An environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Where its value is from.
    pub value: EnvValue,
}

/// Where the value of a variable is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvValue {
    /// From the document.
    Plain(String),
    /// From the secret of this name.
    Secret(String),
}

/// `resources` of a container: limits, not reservations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core; ACA's default is 250.
    pub cpu_millis: u32,
    /// Bytes; ACA's default is 0.5 Gi.
    pub memory_bytes: u64,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpu_millis: 250, memory_bytes: 512 << 20 }
    }
}

/// Where a volume appears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMount {
    /// Which volume.
    pub volume_name: String,
    /// Absolute, without `:`.
    pub mount_path: String,
    /// Relative, without `..`; empty is the volume's root.
    pub sub_path: String,
}

/// A probe as the document gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerProbe {
    /// What its answer decides.
    pub kind: crate::probe::ProbeKind,
    /// What is asked.
    pub action: ProbeAction,
    /// 0 where not given.
    pub initial_delay_secs: u32,
    /// 10 by default.
    pub period_secs: u32,
    /// 1 by default.
    pub timeout_secs: u32,
    /// 1 by default.
    pub success_threshold: u32,
    /// 3 by default.
    pub failure_threshold: u32,
    /// In place of the template's.
    pub termination_grace_period_secs: Option<u32>,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeAction {
    /// `httpGet`.
    Http {
        /// In place of the replica's address.
        host: Option<String>,
        /// 1 to 65535.
        port: u16,
        /// `/` where not given.
        path: String,
        /// `scheme: HTTPS`.
        https: bool,
        /// Names and values.
        headers: Vec<(String, String)>,
    },
    /// `tcpSocket`.
    Tcp {
        /// In place of the replica's address.
        host: Option<String>,
        /// 1 to 65535.
        port: u16,
    },
}

/// `template.scale`.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    /// 0 by default.
    pub min_replicas: u32,
    /// 10 by default.
    pub max_replicas: u32,
    /// Seconds, 300 by default.
    pub cooldown_period_secs: u32,
    /// Seconds, 30 by default.
    pub polling_interval_secs: u32,
    /// Function apps only.
    pub allow_scaling_rule_override: Option<bool>,
    /// The most demanding wins.
    pub rules: Vec<ScaleRule>,
}

impl Default for Scale {
    fn default() -> Self {
        Self {
            min_replicas: 0,
            max_replicas: 10,
            cooldown_period_secs: 300,
            polling_interval_secs: 30,
            allow_scaling_rule_override: None,
            rules: Vec::new(),
        }
    }
}

/// A rule of `template.scale`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScaleRule {
    /// Its name.
    pub name: String,
    /// What it looks at.
    pub trigger: ScaleTrigger,
    /// Secrets for the scaler.
    pub auth: Vec<ScaleAuth>,
    /// A managed identity.
    pub identity: Option<String>,
}

/// What a scale rule looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScaleTrigger {
    /// Requests.
    Http {
        /// `concurrentRequests` and others.
        metadata: BTreeMap<String, String>,
    },
    /// Connections.
    Tcp {
        /// `concurrentConnections` and others.
        metadata: BTreeMap<String, String>,
    },
    /// A KEDA scaler.
    Custom {
        /// Which.
        kind: String,
        /// Its settings.
        metadata: BTreeMap<String, String>,
    },
    /// An Azure queue.
    AzureQueue {
        /// The storage account.
        account_name: Option<String>,
        /// The queue.
        queue_name: Option<String>,
        /// Messages for each replica.
        queue_length: Option<u32>,
    },
}

/// A secret for a scaler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScaleAuth {
    /// The secret.
    pub secret_ref: String,
    /// The scaler's parameter.
    pub trigger_parameter: String,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Unique in the template.
    pub name: String,
    /// What it is made of.
    pub source: VolumeSource,
    /// Comma-separated.
    pub mount_options: Option<String>,
}

impl Volume {
    /// What its `mountOptions` come to.
    pub fn options(&self) -> MountOptions {
        let text = self.mount_options.as_deref().unwrap_or_default();
        MountOptions::read(text).0
    }
}

/// What a volume is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// A folder that lives as long as the replica.
    EmptyDir,
    /// Files with the values of secrets.
    Secret {
        /// Secret and path; none is all secrets under their own names.
        items: Vec<SecretItem>,
    },
    /// A storage of the environment: `AzureFile`, `NfsAzureFile` or `Smb`.
    Storage {
        /// The storage's name.
        storage_name: String,
    },
}

/// A file of a Secret volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretItem {
    /// The secret.
    pub secret_ref: String,
    /// Relative, without `..`.
    pub path: String,
}

/// An entry of `template.serviceBinds`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceBind {
    /// Which service.
    pub service_id: String,
    /// The name of the bind.
    pub name: String,
}

/// The top-level `skerry` block.
#[derive(Debug, Clone, PartialEq)]
pub struct SkerryBlock {
    /// Must rise, if given.
    pub generation: Option<u64>,
    /// Remove the app.
    pub absent: bool,
    /// Try again what was refused after a failed rollout.
    pub force: bool,
    /// How the new revision takes over.
    pub update_strategy: UpdateStrategy,
    /// 600 by default.
    pub ready_deadline_secs: u32,
    /// 60 by default.
    pub probation_secs: u32,
    /// How a replica waits at zero.
    pub standby: Standby,
    /// Switch only then.
    pub update_window: Option<UpdateWindow>,
    /// For the template.
    pub extras: Extras,
}

impl Default for SkerryBlock {
    fn default() -> Self {
        Self {
            generation: None,
            absent: false,
            force: false,
            update_strategy: UpdateStrategy::default(),
            ready_deadline_secs: 600,
            probation_secs: 60,
            standby: Standby::default(),
            update_window: None,
            extras: Extras::default(),
        }
    }
}

/// How a new revision takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpdateStrategy {
    /// The new one starts beside the old one.
    #[default]
    Surge,
    /// The old one stops first.
    Recreate,
}

/// How a replica waits at zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standby {
    /// Not at all.
    #[default]
    None,
    /// Made, not started.
    Created,
    /// Started, then frozen.
    Frozen,
}

/// When a switch may take place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateWindow {
    /// Five fields: its beginning.
    pub cron: String,
    /// Its length.
    pub duration_minutes: u32,
    /// An IANA name.
    pub time_zone: String,
}

/// A device of the board in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// On the board.
    pub host_path: String,
    /// In the container.
    pub container_path: String,
    /// Of `r`, `w` and `m`.
    pub permissions: String,
}

/// Linux capabilities beside the default ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// More.
    pub add: Vec<String>,
    /// Fewer.
    pub drop: Vec<String>,
}
