//! Why something is not as asked for: one word, one sentence, one fix.
//!
//! The list is closed. Whatever a person can meet is here, so that `skerry explain` has an answer and programs can
//! match on the word.

use std::fmt;
use std::str::FromStr;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident: $sentence:literal, $fix:literal;)*) => {
        /// Why something is not as asked for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Reason { $(#[doc = $sentence] $name,)* }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word that stands in a status.
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What it means.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)* }
            }

            /// What a person can do about it.
            pub fn fix(self) -> &'static str {
                match self { $(Self::$name => $fix,)* }
            }
        }
    };
}

reasons! {
    // The document.
    InvalidSyntax: "The document is neither YAML nor JSON.", "Correct the line that the message names.";
    InvalidType: "A value has the wrong type.", "Give the type that the message names at this path.";
    InvalidValue: "A value breaks a rule.", "Give a value that the message allows at this path.";
    MissingValue: "A required value is not given.", "Add the key that the path names.";
    SecretRefNotFound: "A secretRef names a secret that the document does not list.", "List the secret under configuration.secrets.";
    DocumentTooLarge: "The document is larger than 256 KiB.", "Make the document smaller; put data into a volume or an image.";
    NameMismatch: "The document's name is not the name it was sent under.", "Send it to its own topic, or drop the name.";
    WrongKind: "The document is of another kind than the place it was sent to.", "Send apps to apps/, jobs to jobs/ and environments to environments/.";
    UnresolvedExpression: "An ARM template expression was left unresolved.", "Deploy the resolved resource, not the template.";
    HostNameTooLong: "A host name would be longer than a DNS label of 63 characters.", "Shorten the app's name, the revision suffix or the label.";
    GenerationConflict: "This generation was seen with other content, or is older than the one in force.", "Raise skerry.generation.";
    OwnedByOtherSource: "The app belongs to another source.", "Change it there, or use --force.";
    DeviceNotAllowed: "The board does not let documents ask for this device.", "Add its path, or a pattern of it, to [devices] allow in agent.toml.";
    CapabilityNotAllowed: "The board does not let documents ask for this capability.", "Add its name to [devices] capabilities in agent.toml.";
    StorageNotAllowed: "The board's owner does not allow documents to name this path or device.", "Add it to [storage] allow in agent.toml, or use a folder below volumes in state.dir.";
    SealedValueUnreadable: "A sealed value does not open with this device's key.", "Seal it anew with the publicKey of the device's status: skerry secret seal.";
    UnknownSecret: "The app has no value of this secret.", "See `skerry secret ls APP` for those there are.";
    UnknownApp: "There is no such app.", "See `skerry apps` for those there are.";
    UnknownRevision: "The app has no such revision.", "See `skerry revisions APP` for those there are.";
    TemplateRefused: "This template failed on this board and is not tried again by itself.", "Change the template, or set skerry.force: true.";
    WrongMode: "The app's activeRevisionsMode does not allow this.", "Set activeRevisionsMode: Multiple in the document.";
    RevisionInactive: "The revision is not active.", "Activate it: skerry revision activate REVISION.";
    // Warnings.
    Unsupported: "Skerry knows this key and does not act on it.", "Remove it, or read docs/aca.md for what takes its place.";
    UnknownKey: "The key is not part of the schema.", "Check the spelling.";
    ReadOnly: "The server sets this value; it is ignored.", "Remove it, or leave it: it does no harm.";
    NotYetSupported: "Skerry accepts this and does not act on it yet.", "Nothing to do: it takes effect with a later release.";
    NoMeaningHere: "This has a meaning in Azure only.", "Nothing to do.";
    NothingWakes: "Once the app is at zero nothing brings it back: it has neither ingress nor a rule that could.", "Set scale.minReplicas to 1, or add ingress or a scale rule.";
    PlainMqtt: "The broker is reached without TLS beyond loopback.", "Use an mqtts:// URL.";
    // Waiting, or failing, on the way to running.
    StorageFull: "The disk is too full to store this safely.", "Free space on the disk that the details name: that of state.dir, or of containerd. It is tried again by itself.";
    StorageFailed: "What has to last could not be written to the disk.", "Look at the journal and the health of the disk.";
    ContainerdUnavailable: "containerd does not answer.", "Start it: systemctl start containerd.";
    ContainerdForbidden: "The socket of containerd cannot be opened for lack of rights.", "Run the agent as root.";
    ContainerdFailed: "containerd refused an operation.", "Read the details; the journal of containerd has more.";
    ImageNotFound: "The image is not on the board and its registry does not have it.", "Check the name and tag, or import the image.";
    ImageUnauthorized: "The registry refused the credentials.", "Check registries and the secret with the password.";
    RegistryUnreachable: "The registry cannot be reached.", "Check the network, or import the image.";
    ImagePlatformMismatch: "The image has no variant for this board's architecture.", "Build it for the platform that the details name.";
    ImageCorrupt: "The image's content does not match its digest.", "Pull or import it again.";
    ImageUntrusted: "Nobody whose key the board has vouches for the image.", "Sign it as docs/guide/images.md says, or correct [images.trust]; it is tried again by itself.";
    ImageNoSpace: "The disk of containerd has no room for the image.", "Free space there; it is tried again by itself.";
    PullingImage: "The image is being fetched.", "Nothing to do.";
    CommandNotFound: "The command does not exist in the image.", "Check command and args against the image.";
    CommandNotExecutable: "The command in the image cannot be executed.", "Give it the executable bit, or a build for this architecture.";
    ContainerStartFailed: "The container could not be started.", "Read the details.";
    ContainerStarting: "The containers are being started.", "Nothing to do.";
    ContainerExited: "The container exited and is started again.", "See `skerry logs`.";
    CrashLoopBackOff: "The container exits again and again; the next start waits.", "See `skerry logs`; the wait ends by itself.";
    OOMKilled: "The container used more memory than its limit.", "Raise resources.memory, or find the leak.";
    InitContainerFailed: "An init container did not exit with 0.", "See `skerry logs`; it is tried again.";
    ProbeFailed: "A probe does not succeed.", "Read the details: the probe and what it got.";
    ScalerFailed: "A scale rule's source could not be sampled; the number of replicas stays as it is.", "Read the details: what was asked, and what it answered.";
    WaitingForProbe: "The container runs and its readiness probe has not succeeded yet.", "Nothing to do, unless it lasts.";
    PortClosed: "Nothing listens on the target port.", "Make ingress.targetPort the port that the app listens on.";
    DeadlineExceeded: "The revision did not become ready in time.", "Read the details of its replicas.";
    DeviceBusy: "A device that the replica needs for itself alone is held by another one.", "Stop the other one, or give each its own device.";
    WaitingForStop: "The replica starts once the ones before it are gone.", "Nothing to do: they have their grace period to end.";
    TrafficUnready: "The traffic names a revision that is not there, not active or was never ready; the others have its share.", "See `skerry revisions APP`, and correct ingress.traffic.";
    InsufficientMemory: "There is not enough memory for another copy.", "Free memory; for an update, skerry.updateStrategy: recreate needs none.";
    InsufficientCpu: "The board's processors are busy all the time: another replica would only take turns with those there are.", "Lower the load, or spread it over more boards; more replicas come by themselves when there is time.";
    VolumeFailed: "A volume could not be made.", "Read the details.";
    DeviceMissing: "A device that the container needs is not there.", "Plug it in, or correct skerry.devices; it is tried again by itself.";
    StorageMissing: "The environment has no storage of this name yet.", "Publish the environment document that defines it.";
    SecretValueMissing: "A secret is listed and no value is known yet.", "Set it: skerry secret set APP NAME.";
    SecretsLost: "Stored values of secrets do not open with the device's key.", "Bring the key back and restart the agent, or set the values again: skerry secret set APP NAME.";
    WaitingForWindow: "The new revision is ready and waits for its update window.", "Nothing to do; to switch at once, drop skerry.updateWindow.";
    LockedByApp: "The new revision is ready and the running app holds its lock.", "Nothing to do; the app lets go by removing /run/skerry/lock in its container.";
    TimeZoneUnknown: "The board knows no time zone of this name.", "Install the package tzdata, check the name, or use UTC.";
    // The network.
    BridgeNameTaken: "The bridge's name belongs to an interface that is not Skerry's.", "Rename the interface, or the environment.";
    AddressPoolInUse: "The address pool overlaps a network that the board is in.", "Set [network] pool to a free range.";
    AddressPoolExhausted: "No address is left in the environment's subnet.", "Scale down, or use a larger pool.";
    ForwardBlocked: "Another firewall drops what Skerry forwards.", "Allow forwarding for the interfaces sk-*.";
    NetworkFailed: "The network of the environment could not be set up.", "Read the details; root and nftables are needed.";
    PortTaken: "A port that Skerry listens on belongs to another program.", "Stop that program, or change [ingress] or the app's exposedPort.";
    PortConflict: "A port that the app exposes belongs to another app, or to the board itself.", "Give the app another exposedPort.";
    NotRoot: "The agent does not run as root.", "Start it by systemd, or with sudo.";
    BootFileUnusable: "The boot partition's skerry.toml cannot be used; what it said before holds, or agent.toml alone.", "Correct what the details name, and restart the board or the agent.";
    // The control plane.
    BrokerUnreachable: "The broker cannot be reached; apps go on without it.", "Check the network and [mqtt] url; it is tried again by itself.";
    BrokerRefused: "The broker refuses the connection or the subscription.", "Check [mqtt] username and password_file, and the broker's access list.";
    BrokerCertificate: "A certificate was refused, the broker's by us or ours by the broker.", "Check [mqtt] ca, cert and key, the name in the URL, and the board's clock.";
    BrokerFileUnreadable: "A certificate, key or password file for the broker cannot be used.", "Check that the file in the details exists and holds what it should.";
    // Serving.
    UnknownHost: "No app has this host name.", "Check the name; `skerry apps` lists them.";
    UnknownPort: "No app has this port.", "Check ingress.exposedPort; `skerry show APP` tells of conflicts.";
    NoReadyReplica: "No replica is ready.", "See `skerry explain`.";
    KeepsReplicas: "The app does not go to zero: its bounds, a pin or a rule keeps replicas.", "Set minReplicas to 0: skerry scale APP --min 0.";
    ActivationQueueFull: "Too many requests wait for the first replica of the app.", "Send them again a little later, or set scale.minReplicas to 1.";
    PinnedToZero: "The app is pinned at 0 replicas.", "Clear the pin: skerry scale APP --clear.";
    AppStopped: "The app is stopped.", "Start it: skerry start APP.";
    IngressDisabled: "The app has no ingress.", "Add configuration.ingress.";
    UpstreamFailed: "The replica closed the connection or answered garbage.", "See `skerry logs`.";
    UpstreamTimeout: "The replica did not answer within 240 s.", "Make the app answer sooner.";
    // Events that are no failure.
    DesiredChanged: "A new document was accepted.", "Nothing to do.";
    DesiredCleared: "An empty message cleared the retained document; the app stays.", "To remove the app, send skerry: {absent: true}.";
    AppRemoved: "The app was removed.", "Nothing to do.";
    RevisionCreated: "A revision was made.", "Nothing to do.";
    RevisionReady: "The revision is ready and has the traffic.", "Nothing to do.";
    RevisionRetired: "The revision's replicas are being stopped.", "Nothing to do.";
    RevisionStarting: "The revision's replicas start beside those that serve.", "Nothing to do.";
    RevisionOnTrial: "The revision is ready and has the traffic, on trial.", "Nothing to do: it is committed when its probation is over.";
    StandbyGivenUp: "Memory is low, and a replica that stood by gave up what it took of it.", "Nothing to do: one is started when it is needed.";
    RevisionCommitted: "The revision has the traffic for good.", "Nothing to do.";
    RevisionRolledBack: "The revision failed; the traffic is with the last one that was committed.", "See `skerry explain APP`; change the template, or set skerry.force: true.";
    RevisionActivated: "A person activated the revision.", "Nothing to do.";
    RevisionDeactivated: "A person deactivated the revision.", "Nothing to do.";
    RevisionRestarted: "A person had the revision's replicas made anew.", "Nothing to do.";
    TrafficChanged: "A person changed the split or a label.", "Nothing to do.";
    ReplicaStarted: "A replica was started.", "Nothing to do.";
    ReplicaStopped: "A replica was stopped.", "Nothing to do.";
    SentToZero: "A person sent the app to zero.", "Nothing to do: the next request brings it back.";
    ScaleTargetChanged: "A scale target was set or cleared.", "Nothing to do.";
    ImagesRemoved: "Images that no app needs were removed from the board.", "Nothing to do; [images] says when they are.";
    SecretChanged: "The value of a secret was set or removed by a person.", "Have it read: skerry revision restart REVISION.";
    AgentStarted: "The agent started.", "Nothing to do.";
    StoreRebuilt: "The state store would not open and was rebuilt from its copy.", "Check the disk; the damaged store lies beside the new one.";
    ImageRepaired: "A power cut had cut an image; what of it was not whole is made anew.", "Nothing to do; if it happens without power cuts, check the disk.";
    EventsDropped: "Events were dropped because the outbox was full.", "Nothing to do.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The word is none of the reasons.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a reason")]
pub struct UnknownReason(pub String);

impl FromStr for Reason {
    type Err = UnknownReason;
    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.word() == text)
            .ok_or_else(|| UnknownReason(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    use super::*;

    #[test]
    fn the_list_of_reasons_in_the_docs_is_this_list() {
        let mut page = String::from(
            "# Reasons\n\n\
             Where something is not as asked for, a status, an event or an error gives one of these words. \
             `skerry explain WORD` prints the\nsame. The list is closed.\n\n\
             This page is made by `UPDATE_EXPECT=1 cargo test --package domain`.\n\n\
             | reason | what it means | what to do |\n|---|---|---|\n",
        );
        for reason in Reason::ALL {
            let (sentence, fix) = (reason.sentence(), reason.fix());
            page.extend(["| `", reason.word(), "` | ", sentence, " | ", fix, " |\n"]);
        }
        expect_file!["../../../docs/reasons.md"].assert_eq(&page);
    }

    #[test]
    fn every_reason_reads_back_and_has_a_sentence_and_a_fix() {
        for reason in Reason::ALL {
            assert_eq!(reason.word().parse::<Reason>().unwrap(), *reason);
            assert!(reason.sentence().ends_with('.'), "{reason}");
            assert!(reason.fix().ends_with('.'), "{reason}");
        }
    }
}
