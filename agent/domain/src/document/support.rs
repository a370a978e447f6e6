//! What this release makes of the schema: the one place to look, and to change when a release learns something.
//!
//! Keys that are read have no line in [`KEYS`]. What is read and not acted on yet has a line in [`LATER`]; taking that
//! line out ends the warning.

use crate::reason::Reason::{self, NoMeaningHere, ReadOnly, Unsupported};

/// Which mapping of the schema a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Document,
    Properties,
    Configuration,
    Secret,
    Ingress,
    Traffic,
    CustomDomain,
    IpRestriction,
    StickySessions,
    Cors,
    PortMapping,
    Registry,
    Dapr,
    DaprAppHealth,
    Runtime,
    RuntimeJava,
    Service,
    IdentitySetting,
    Template,
    Container,
    EnvVar,
    Resources,
    VolumeMount,
    Probe,
    HttpGet,
    TcpSocket,
    HttpHeader,
    Scale,
    ScaleRule,
    ScaleTrigger,
    ScaleAuth,
    Volume,
    SecretItem,
    ServiceBind,
    JobTrigger,
    JobScale,
    JobScaleRule,
    Skerry,
    UpdateWindow,
    Device,
    Capabilities,
    SkerryProbe,
    Exec,
    ScaleTarget,
    EnvironmentProperties,
    EnvironmentSkerry,
    Storage,
    /// The keys are the user's own.
    Free,
}

const SERVER: &str = "set by the server; ignored";
const AZURE: &str = "has a meaning in Azure only; ignored";

/// Keys that are known and not read.
pub(super) const KEYS: &[(Place, &str, Reason, &str)] = &[
    (Place::Document, "id", ReadOnly, SERVER),
    (Place::Document, "systemData", ReadOnly, SERVER),
    (Place::Document, "etag", ReadOnly, SERVER),
    (Place::Document, "provisioningState", ReadOnly, SERVER),
    (Place::Document, "runningStatus", ReadOnly, SERVER),
    (Place::Document, "runningState", ReadOnly, SERVER),
    (Place::Document, "latestRevisionName", ReadOnly, SERVER),
    (Place::Document, "latestRevisionFqdn", ReadOnly, SERVER),
    (Place::Document, "latestReadyRevisionName", ReadOnly, SERVER),
    (Place::Document, "customDomainVerificationId", ReadOnly, SERVER),
    (Place::Document, "outboundIPAddresses", ReadOnly, SERVER),
    (Place::Document, "outboundIpAddresses", ReadOnly, SERVER),
    (Place::Document, "eventStreamEndpoint", ReadOnly, SERVER),
    (Place::Document, "apiVersion", NoMeaningHere, AZURE),
    (
        Place::Document,
        "location",
        NoMeaningHere,
        "has a meaning in Azure only: an app is where its board is",
    ),
    (Place::Document, "resourceGroup", NoMeaningHere, AZURE),
    (
        Place::Document,
        "identity",
        NoMeaningHere,
        "managed identities are Azure's; give registries a password and secrets a value",
    ),
    (Place::Document, "extendedLocation", NoMeaningHere, AZURE),
    (Place::Document, "managedBy", NoMeaningHere, AZURE),
    (Place::Document, "kind", NoMeaningHere, AZURE),
    (
        Place::Document,
        "workloadProfileName",
        NoMeaningHere,
        "has a meaning in Azure only: a board is one machine",
    ),
    (Place::Document, "dependsOn", NoMeaningHere, AZURE),
    (Place::Document, "condition", NoMeaningHere, AZURE),
    (Place::Document, "scope", NoMeaningHere, AZURE),
    (Place::Document, "comments", NoMeaningHere, AZURE),
    (Place::Properties, "provisioningState", ReadOnly, SERVER),
    (Place::Properties, "runningStatus", ReadOnly, SERVER),
    (Place::Properties, "runningState", ReadOnly, SERVER),
    (Place::Properties, "latestRevisionName", ReadOnly, SERVER),
    (Place::Properties, "latestRevisionFqdn", ReadOnly, SERVER),
    (Place::Properties, "latestReadyRevisionName", ReadOnly, SERVER),
    (Place::Properties, "customDomainVerificationId", ReadOnly, SERVER),
    (Place::Properties, "outboundIPAddresses", ReadOnly, SERVER),
    (Place::Properties, "outboundIpAddresses", ReadOnly, SERVER),
    (Place::Properties, "eventStreamEndpoint", ReadOnly, SERVER),
    (Place::Properties, "networking", NoMeaningHere, AZURE),
    (
        Place::Properties,
        "workloadProfileName",
        NoMeaningHere,
        "has a meaning in Azure only: a board is one machine",
    ),
    (Place::Properties, "delegatedIdentities", NoMeaningHere, AZURE),
    (Place::Properties, "patchingMode", NoMeaningHere, AZURE),
    (Place::Configuration, "revisionTransitionThreshold", Unsupported, "known, and not acted on"),
    (Place::Ingress, "fqdn", ReadOnly, SERVER),
    (
        Place::Ingress,
        "targetPortHttpScheme",
        Unsupported,
        "known, and not acted on: replicas are spoken to without TLS",
    ),
    (Place::Template, "customMetricsSettings", NoMeaningHere, AZURE),
    (Place::Container, "imageType", NoMeaningHere, "every container has an image here"),
    (Place::Resources, "gpu", Unsupported, "known, and not acted on; see skerry.devices"),
    (Place::Probe, "exec", Unsupported, "ACA has no exec probes; see skerry.probes"),
    (Place::Probe, "grpc", Unsupported, "ACA has no gRPC probes"),
    (Place::EnvironmentProperties, "defaultDomain", ReadOnly, SERVER),
    (Place::EnvironmentProperties, "deploymentErrors", ReadOnly, SERVER),
    (Place::EnvironmentProperties, "eventStreamEndpoint", ReadOnly, SERVER),
    (Place::EnvironmentProperties, "privateEndpointConnections", ReadOnly, SERVER),
    (Place::EnvironmentProperties, "privateLinkDefaultDomain", ReadOnly, SERVER),
    (Place::EnvironmentProperties, "provisioningState", ReadOnly, SERVER),
    (Place::EnvironmentProperties, "staticIp", ReadOnly, SERVER),
    (Place::EnvironmentProperties, "appInsightsConfiguration", NoMeaningHere, AZURE),
    (Place::EnvironmentProperties, "appLogsConfiguration", NoMeaningHere, AZURE),
    (Place::EnvironmentProperties, "availabilityZones", NoMeaningHere, AZURE),
    (Place::EnvironmentProperties, "customDomainConfiguration", NoMeaningHere, AZURE),
    (Place::EnvironmentProperties, "daprAIConnectionString", NoMeaningHere, AZURE),
    (Place::EnvironmentProperties, "daprAIInstrumentationKey", NoMeaningHere, AZURE),
    (Place::EnvironmentProperties, "daprConfiguration", NoMeaningHere, AZURE),
    (Place::EnvironmentProperties, "diskEncryptionConfiguration", NoMeaningHere, AZURE),
    (Place::EnvironmentProperties, "infrastructureResourceGroup", NoMeaningHere, AZURE),
    (Place::EnvironmentProperties, "ingressConfiguration", NoMeaningHere, AZURE),
    (Place::EnvironmentProperties, "kedaConfiguration", NoMeaningHere, AZURE),
    (Place::EnvironmentProperties, "openTelemetryConfiguration", NoMeaningHere, AZURE),
    (Place::EnvironmentProperties, "peerAuthentication", NoMeaningHere, AZURE),
    (Place::EnvironmentProperties, "peerTrafficConfiguration", NoMeaningHere, AZURE),
    (Place::EnvironmentProperties, "publicNetworkAccess", NoMeaningHere, AZURE),
    (Place::EnvironmentProperties, "vnetConfiguration", NoMeaningHere, AZURE),
    (Place::EnvironmentProperties, "workloadProfiles", NoMeaningHere, AZURE),
    (Place::EnvironmentProperties, "zoneRedundant", NoMeaningHere, AZURE),
];

/// What is read, kept and not acted on in this release, and what happens instead.
pub(super) const LATER: &[(&str, &str)] = &[
    ("certificates", "not acted on yet: the board has no certificates"),
    ("daprComponents", "not acted on yet: apps run without Dapr"),
    ("httpRouteConfigs", "not acted on yet: each host name leads to its own app"),
    ("dapr", "not acted on yet: the app runs without its Dapr sidecar"),
    (
        "tls",
        "not acted on yet: HTTP is served without a redirect until the board has a certificate",
    ),
    (
        "domainTls",
        "not acted on yet: the domain is served over HTTP until the board has a certificate",
    ),
    ("mtls", "not acted on yet: clients are not asked for a certificate"),
    ("sticky", "not acted on yet: each request goes to the least busy replica"),
    ("cors", "not acted on yet: no CORS headers are added"),
    ("ipRestrictions", "not acted on yet: EVERY address may come in"),
];

/// Why a key is not read, if it is known.
pub(super) fn standing(place: Place, key: &str) -> Option<(Reason, &'static str)> {
    let line = KEYS.iter().find(|(at, name, ..)| *at == place && *name == key);
    line.map(|(_, _, reason, message)| (*reason, *message))
}

/// The keys of `place` that are known and not read.
pub(super) fn keys(place: Place) -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter(move |(at, ..)| *at == place).map(|(_, name, ..)| *name)
}

/// What happens instead of `feature`, as long as this release does not act on it.
pub(super) fn not_yet(feature: &str) -> Option<&'static str> {
    LATER.iter().find(|(name, _)| *name == feature).map(|(_, message)| *message)
}
